"""Time and memory of a training step, reinforced against plain CLIP: the same student and batch, short runs in turns;
and what stored knowledge takes.

    python -m clip_edge.benchmarks.reinforced.cost --work DIR

`--work` is the folder of `ladder.py`, whose data, teachers and knowledge are used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.reinforced.ladder import KNOWLEDGE
from clip_edge.benchmarks.steptime import TRAINING, Way, measure
from clip_edge.files import write_json

RESULTS = Path(__file__).parent / "cost.json"
STUDENTS = ("nano-s", "nano-vit")
AUGMENT = {"augment.crop_scale": "[0.08, 1.0]", "augment.randaugment_ops": "2"}


def main() -> None:
    """Measure, and write RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that ladder.py filled")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    parser.add_argument("--students", default=",".join(STUDENTS), help="which ones (default: %(default)s)")
    args = parser.parse_args()
    work: Path = args.work
    found = {
        "schema": 1,
        "environment": dataclasses.asdict(read_environment()),
        "training": TRAINING,
        "knowledge": {name: _knowledge(work / "data", work / "knowledge" / name) for name in KNOWLEDGE},
        "students": {
            student: measure(ways(work), data=work / "data", student=student, work=work)
            for student in args.students.split(",")
        },
    }
    write_json(args.results, found)


def _knowledge(data: Path, folder: Path) -> dict[str, object]:
    """Its size and how fast it is read, as `clip_edge.distill.reinforce.measure` prints them."""
    command = [sys.executable, "-m", "clip_edge.distill.reinforce.measure", str(data), str(folder)]
    found: dict[str, object] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def ways(work: Path) -> dict[str, Way]:
    """Recipe and settings of every way to train that is compared."""
    stored = {"knowledge": str(work / "knowledge" / "two-teachers")}
    asked = {"teachers": json.dumps([str(work / "teacher-1"), str(work / "teacher-2")])}
    return {
        "plain CLIP": Way("clip"),
        "plain CLIP, augmented": Way("clip", AUGMENT),
        "stored knowledge, true captions": Way("mobileclip", stored | {"captions": '["true"]'}),
        "stored knowledge, both captions": Way("mobileclip", stored),
        "teachers asked online, both captions": Way("mobileclip", asked),
    }


if __name__ == "__main__":
    main()
