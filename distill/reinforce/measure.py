"""What stored knowledge takes: bytes a picture beside DataCompDR's layout, and how fast one core reads it.

    python -m clip_edge.distill.reinforce.measure DATA KNOWLEDGE > RESULT.json

DataCompDR keeps three members beside every picture: embeddings in bf16 (a gzipped PyTorch file), augmentations and
synthetic captions (JSON). They are written here from our sidecars, and counted without the padding of a tar file.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.reinforce.batches import Kind, Stored, draw_captions
from clip_edge.distill.reinforce.reader import Reinforced, open_reinforced
from clip_edge.preprocess import PreprocessSpec

KINDS: tuple[Kind, ...] = ("true", "synthetic")
SIZE = 64  # pixels to which augmentations are replayed, as for the student nano-s


def main() -> None:
    """Measure the knowledge about the split `train`, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data set")
    parser.add_argument("knowledge", type=Path, help="what `clip-edge reinforce --out` was given")
    parser.add_argument("--pictures", type=int, default=500, help="how many are looked at (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(args.data, "train")
    known = open_reinforced(dataset, args.knowledge, check_hashes=False)
    chosen = [int(i) for i in known.usable[:: max(1, len(known.usable) // args.pictures)]]
    json.dump(size(known, dataset, chosen) | reading(known, dataset, chosen), sys.stdout, indent=2)


def size(known: Reinforced, dataset: DataSet, chosen: Sequence[int]) -> dict[str, Any]:
    """Bytes a picture, ours and DataCompDR's, and what they are bytes of."""
    files = sum(path.stat().st_size for path in known.folder.glob("*.reinforce.safetensors"))
    return {
        "bytes": files / len(known.usable),
        "datacompdr_bytes": mean(datacompdr_bytes(known, dataset, i) for i in chosen),
        "captions": mean(len(known.captions(i, dataset.sample(i))) for i in chosen),
        "augmentations": known.augmentations,
        "dimensions": [teacher.dim for teacher in known.teachers],
        "dtype": known.manifest.job.dtype,
    }


def datacompdr_bytes(known: Reinforced, dataset: DataSet, i: int) -> int:
    """What DataCompDR's three members about sample `i` come to."""
    captions, views = known.captions(i, dataset.sample(i)), range(known.augmentations)
    arrays = {
        "image_emb": torch.stack([torch.cat(known.image_embeds(i, a)) for a in views]).bfloat16(),
        "text_emb": torch.stack([torch.cat(known.text_embeds(i, caption)) for caption in captions]).bfloat16(),
    }
    packed = io.BytesIO()
    torch.save(arrays, packed)
    drawn = [known.params(i, a) for a in views]
    entries = [[list(one.box), [list(pair) for pair in zip(one.ops, one.magnitudes, strict=True)]] for one in drawn]
    written = [caption.text for caption in captions if caption.synthetic]
    tables = ({"param_aug": entries}, {"syn_text": written})
    return len(gzip.compress(packed.getvalue())) + sum(len(json.dumps(table).encode()) for table in tables)


def reading(known: Reinforced, dataset: DataSet, chosen: Sequence[int]) -> dict[str, float]:
    """Samples a second: what is stored about them alone, and with pictures decoded and augmentations replayed."""
    spec = PreprocessSpec(SIZE, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with_picture, rng = Stored(known).reader(dataset, spec, KINDS, (), 0), random.Random(0)

    def without_picture(i: int) -> None:
        augmentation = rng.randrange(known.augmentations)
        known.params(i, augmentation)
        known.image_embeds(i, augmentation)
        for caption in draw_captions(known.captions(i, dataset.sample(i)), KINDS, (), rng):
            known.text_embeds(i, caption)

    return {
        "without_picture_per_s": _rate(chosen, without_picture),
        "with_picture_per_s": _rate(chosen, lambda i: with_picture(0, i)),
    }


def _rate(chosen: Sequence[int], read: Callable[[int], object]) -> float:
    """Calls a second, after a first look at all of them."""
    for i in chosen:
        read(i)
    started_s = time.perf_counter()
    for i in chosen:
        read(i)
    return len(chosen) / (time.perf_counter() - started_s)


if __name__ == "__main__":
    main()
