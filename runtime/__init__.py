"""Running bundles: numpy and ONNX Runtime, never torch.

from clip_edge.runtime import load

with load("bundle") as model:
    probabilities = model.classify(["cat.jpg"], ["a cat", "a dog"])  # (1, 2)
    labels = model.segment("cat.jpg", ["a cat", "a dog"]).labels  # (H, W), after `export --segment`
"""

from clip_edge.runtime.model import Model, load
from clip_edge.runtime.segmentation import Outline, Prompt, Segmentation, View

__all__ = ["Model", "Outline", "Prompt", "Segmentation", "View", "load"]
