"""Lower precisions of ONNX graphs: explicit Q/DQ, fp16, 4-bit weights, and what each layer costs."""
