"""TensorRT and TensorRT-RTX: build, judge, keep and run engines. Needs neither torch nor onnx: it runs on a Jetson."""
