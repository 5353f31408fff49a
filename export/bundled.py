"""A bundle in the place of a model: `eval` measures what users will run, through the runtime that they will use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clip_edge.bundle import TOKENIZER, Bundle, Tower
from clip_edge.distill.models.sight import Sight
from clip_edge.files import MAX_JSON_BYTES
from clip_edge.golden_graphs import PIXELS
from clip_edge.graphs import GraphName
from clip_edge.preprocess import PreprocessSpec
from clip_edge.runtime.backends import DEFAULT, Options, RunGraph, find_backend, open_graph, open_tower
from clip_edge.tokenizer import Tokenizer

Encode = Callable[[np.ndarray], np.ndarray]


class BundleTowers(nn.Module):
    """`encode_image` and `encode_text` as a student has them, computed by the engine of a bundle."""

    def __init__(self, image: Encode, text: Encode, sight: Sight | None) -> None:
        super().__init__()
        self.sight = sight  # what `segmentation` asks of it
        self.here = nn.Parameter(torch.zeros(0), requires_grad=False)  # says on which device the rows are wanted
        self._image, self._text = image, text

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, D)"""
        return torch.from_numpy(self._image(pixels.cpu().numpy()))

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """(B, L) int64 -> (B, D)"""
        return torch.from_numpy(self._text(input_ids.cpu().numpy()))


@dataclass(frozen=True)
class BundledModel:
    """What `distill.evaluate` asks of a model."""

    student: BundleTowers
    tokenizer: Tokenizer
    preprocess: PreprocessSpec


def is_bundle(model: str | Path) -> bool:
    """Whether a path is the folder of a bundle."""
    return (Path(model) / "manifest.json").is_file()


def load_bundled(
    path: Path, *, precision: str | None = None, backend: str = DEFAULT, segment: bool = False
) -> BundledModel:
    """The bundle `path` in one precision; without a name, the first in the manifest. `segment` opens its graphs too.

    Raises:
        BundleError: it is damaged, or has nothing for that backend.
        ConfigError: it has no such precision (the nearest is named).
    """
    targets = find_backend(backend).targets
    bundle = Bundle.open(path)
    runs: dict[Tower, Encode] = {}
    for tower in ("image", "text"):
        artifact = bundle.manifest.artifact(tower, targets, precision)
        runs[tower] = _batched(open_tower(backend, bundle, artifact, Options()), artifact.input_dtype, artifact.batch)
    tokenizer = Tokenizer.load(bundle.read(TOKENIZER, MAX_JSON_BYTES), bundle.manifest.text.tokenizer)
    sight = _sight(bundle, backend, precision) if segment else None
    return BundledModel(BundleTowers(runs["image"], runs["text"], sight), tokenizer, bundle.manifest.image.preprocess)


def _sight(bundle: Bundle, backend: str, precision: str | None) -> Sight:
    """The graphs for segmentation, with numbers as torch has them."""
    targets = find_backend(backend).targets

    def run_of(name: GraphName) -> RunGraph:
        return open_graph(backend, bundle, bundle.manifest.graph(name, targets, precision), Options())

    encoder, head = run_of("encoder"), run_of("clip_head")
    has_masks = any(item.graph == "mask_decoder" and item.target in targets for item in bundle.manifest.graphs)
    decoder = run_of("mask_decoder") if has_masks else None

    def masks(maps: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert decoder is not None
        given = {"feature_map": maps, "points": points, "labels": labels}
        found = decoder({name: value.cpu().numpy() for name, value in given.items()})
        return torch.from_numpy(found["mask_logits"]), torch.from_numpy(found["iou"])

    return Sight(
        encode=lambda pixels: torch.from_numpy(encoder({PIXELS: pixels.cpu().numpy()})["feature_map"]),
        places=lambda maps: torch.from_numpy(head({"feature_map": maps.cpu().numpy()})["patch_embeds"]),
        masks=None if decoder is None else masks,
    )


def _batched(run: Encode, dtype: str, batch: int | None) -> Encode:
    """`run` with the input type and, where it is fixed, the batch of the artefact."""

    def encode(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(dtype, copy=False)
        size = batch or len(rows)
        return np.concatenate([run(rows[start : start + size]) for start in range(0, len(rows), size)])

    return encode
