"""Time of a training step, reinforced against plain CLIP: the same student and batch, short runs that take turns.

    python -m clip_edge.benchmarks.reinforced.cost --work DIR

`--work` is the folder of `ladder.py`, whose data, teachers and knowledge are used. Reading happens in the training
process (`workers = 0`), so a step's time is all of the work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.reinforced.steps import call, settings
from clip_edge.files import write_json

RESULTS = Path(__file__).parent / "cost.json"
STUDENTS = ("nano-s", "nano-vit")
ROUNDS = 3
TRAINING = {
    "steps": "6",
    "batch_size": "64",
    "workers": "0",
    "evaluation.split": "",
    "log.every_steps": "1",
    "log.tensorboard": "false",
    "log.checkpoint_every_steps": "1000",
}
WARMUP_STEPS = 2
AUGMENT = {"augment.crop_scale": "[0.08, 1.0]", "augment.randaugment_ops": "2"}


def main() -> None:
    """Measure, and write RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that ladder.py filled")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    args = parser.parse_args()
    found = {student: measure(args.work, student) for student in STUDENTS}
    here = dataclasses.asdict(read_environment())
    write_json(args.results, {"schema": 1, "environment": here, "training": TRAINING, "students": found})


def measure(work: Path, student: str) -> dict[str, Any]:
    """Raw times of every way to train, and their medians as factors of plain CLIP with and without augmentation."""
    samples_s: dict[str, list[float]] = {name: [] for name in ways(work)}
    for _ in range(ROUNDS):
        for name, (recipe, extra) in ways(work).items():
            samples_s[name] += _steps_s(work, student, recipe, TRAINING | extra)
    middle = {name: median(times) for name, times in samples_s.items()}
    return {
        name: {
            "step_s": middle[name],
            "over_plain": middle[name] / middle["plain"],
            "over_plain_augmented": middle[name] / middle["plain, augmented"],
            "samples_s": samples_s[name],
        }
        for name in samples_s
    }


def ways(work: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Recipe and settings of every way to train that is compared."""
    stored = {"knowledge": str(work / "knowledge" / "two-teachers")}
    asked = {"teachers": json.dumps([str(work / "teacher-1"), str(work / "teacher-2")])}
    return {
        "plain": ("clip", {}),
        "plain, augmented": ("clip", AUGMENT),
        "stored, true captions": ("mobileclip", stored | {"captions": '["true"]'}),
        "stored, both captions": ("mobileclip", stored),
        "asked, both captions": ("mobileclip", asked),
    }


def _steps_s(work: Path, student: str, recipe: str, chosen: dict[str, str]) -> list[float]:
    """Seconds of each step behind the first ones."""
    run = work / "cost-run"
    shutil.rmtree(run, ignore_errors=True)
    words = ["distill", recipe, "--data", str(work / "data"), "--student", student, "--out", str(run)]
    call([*words, *settings(chosen)])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [int(chosen["batch_size"]) / row["images_per_s"] for row in rows if row["step"] > WARMUP_STEPS]


if __name__ == "__main__":
    main()
