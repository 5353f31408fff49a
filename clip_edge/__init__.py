"""clip-edge: distil, export, verify and run compact CLIP models on the edge."""

__version__ = "0.1.0"
