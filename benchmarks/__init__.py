"""Measuring: scenarios, statistics and reports. Needs the `bench` extra."""
