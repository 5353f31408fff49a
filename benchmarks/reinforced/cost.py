"""Time and memory of a training step, reinforced against plain CLIP: the same student and batch, short runs in turns;
and how fast one core reads reinforced samples.

    python -m clip_edge.benchmarks.reinforced.cost --work DIR

`--work` is the folder of `ladder.py`, whose data, teachers and knowledge are used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.reinforced.ladder import KNOWLEDGE as CONTENTS
from clip_edge.benchmarks.steptime import TRAINING, Way, measure
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.models.spec import load_spec
from clip_edge.distill.reinforce.batches import Kind, draw_captions
from clip_edge.distill.reinforce.source import open_stored
from clip_edge.files import write_json

RESULTS = Path(__file__).parent / "cost.json"
STUDENTS = ("nano-s", "nano-vit")
KNOWLEDGE = "two-teachers"
AUGMENT = {"augment.crop_scale": "[0.08, 1.0]", "augment.randaugment_ops": "2"}
KINDS: tuple[Kind, ...] = ("true", "synthetic")
SAMPLES = 2000


def main() -> None:
    """Measure, and write RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that ladder.py filled")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    args = parser.parse_args()
    work: Path = args.work
    torch.set_num_threads(1)  # for the reader; the trainings are processes of their own
    students = {student: measure(ways(work), data=work / "data", student=student, work=work) for student in STUDENTS}
    write_json(
        args.results,
        {
            "schema": 1,
            "environment": dataclasses.asdict(read_environment()),
            "training": TRAINING,
            "students": students,
            "reading": reading(work, SAMPLES),
        },
    )


def ways(work: Path) -> dict[str, Way]:
    """Recipe and settings of every way to train that is compared."""
    stored = {"knowledge": str(work / "knowledge" / KNOWLEDGE)}
    asked = {"teachers": json.dumps([str(work / "teacher-1"), str(work / "teacher-2")])}
    return {
        "plain CLIP": Way("clip"),
        "plain CLIP, augmented": Way("clip", AUGMENT),
        "stored knowledge, true captions": Way("mobileclip", stored | {"captions": '["true"]'}),
        "stored knowledge, both captions": Way("mobileclip", stored),
        "teachers asked online, both captions": Way("mobileclip", asked),
    }


def reading(work: Path, samples: int) -> dict[str, Any]:
    """Samples a second that one core reads: what is stored about them alone, and with pictures decoded and replayed."""
    dataset = open_dataset(work / "data", "train")
    folder = work / "knowledge" / KNOWLEDGE
    source = open_stored(dataset, folder, kinds=KINDS, langs=(), check_hashes=False, allow_other_versions=False)
    read = source.reader(dataset, load_spec(STUDENTS[0]).image.preprocess(), KINDS, (), 0)
    known, rng = source.knowledge, random.Random(0)

    def without_picture(index: int) -> None:
        augmentation = rng.randrange(known.augmentations)
        known.params(index, augmentation)
        known.image_embeds(index, augmentation)
        for caption in draw_captions(known.captions(index, dataset.sample(index)), KINDS, (), rng):
            known.text_embeds(index, caption)

    indices = [int(known.usable[i % len(known.usable)]) for i in range(samples)]
    return {
        "knowledge": dataclasses.asdict(CONTENTS[KNOWLEDGE]),
        "without_picture_per_s": _rate(indices, without_picture),
        "with_picture_per_s": _rate(indices, lambda index: read(0, index)),
    }


def _rate(indices: Sequence[int], read: Callable[[int], object]) -> float:
    """Calls a second, after a first look at all of them."""
    for index in indices:
        read(index)
    started_s = time.perf_counter()
    for index in indices:
        read(index)
    return len(indices) / (time.perf_counter() - started_s)


if __name__ == "__main__":
    main()
