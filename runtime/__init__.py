"""Running bundles: numpy and ONNX Runtime, never torch."""
