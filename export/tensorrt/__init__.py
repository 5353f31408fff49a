"""Targets `trt` and `trt-rtx`: strongly typed graphs, with the plan that turns them into engines."""
