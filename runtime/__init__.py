"""Running bundles: numpy and ONNX Runtime, never torch.

from clip_edge.runtime import load

with load("bundle") as model:
    probabilities = model.classify(["cat.jpg"], ["a cat", "a dog"])  # (1, 2)
"""

from clip_edge.runtime.model import Model, load

__all__ = ["Model", "load"]
