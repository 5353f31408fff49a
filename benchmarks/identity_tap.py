"""The identity in folded depthwise kernels, kept, split off or equalised: int8 of an image tower in each way.

    python -m clip_edge.benchmarks.identity_tap MODEL... --data DATA

Measured by `clip_edge.export.quantize.taps` in a process of its own, without timing: cosines, sizes and layers only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from clip_edge.files import write_json

RESULTS = Path(__file__).with_suffix(".json")


def measure(model: str, data: Path, tower: str) -> dict[str, Any]:
    """What `taps` prints for a model."""
    command = [sys.executable, "-m", "clip_edge.export.quantize.taps", model, "--data", str(data), "--tower", tower]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    """Measure, and write RESULTS after each model; models measured before keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="student folders or runs, or open_clip:NAME:TAG")
    parser.add_argument("--data", type=Path, required=True, help="pictures and sentences to quantise by")
    parser.add_argument("--tower", default="image", help="image or text (default: %(default)s)")
    parser.add_argument("--note", default="", help="what the models are, to stand beside their figures")
    args = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for model in args.models:
        row = {"note": args.note, **measure(model, args.data, args.tower)}
        same = [(old["model"], old["note"]) == (row["model"], row["note"]) for old in known]
        known = [old for old, is_same in zip(known, same, strict=True) if not is_same] + [row]
        write_json(RESULTS, known)


if __name__ == "__main__":
    main()
