"""What each term of the recipe `lightclip` costs: time and memory of a training step against plain CLIP.

    python -m clip_edge.benchmarks.lightclip.cost --work DIR

`--work` is the folder of `ladder.py`, whose data and knowledge are used. Each term is switched on alone, then all.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.lightclip.ladder import KNOWLEDGE, OFF
from clip_edge.benchmarks.steptime import TRAINING, Way, measure
from clip_edge.files import write_json

RESULTS = Path(__file__).parent / "cost.json"
STUDENT = "nano-light"


def main() -> None:
    """Measure, and write RESULTS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that ladder.py filled")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    args = parser.parse_args()
    found = measure(ways(args.work), data=args.work / "data", student=STUDENT, work=args.work)
    here = dataclasses.asdict(read_environment())
    write_json(
        args.results, {"schema": 1, "environment": here, "training": TRAINING, "student": STUDENT, "ways": found}
    )


def ways(work: Path) -> dict[str, Way]:
    """Recipe and settings of every way to train that is compared."""
    last = {"words.layers": "[1, 3]"}
    taught = {"teacher": "reinforced", "knowledge": str(work / "knowledge" / KNOWLEDGE)}
    return {
        "plain CLIP": Way("clip"),
        "softened labels": Way("lightclip", _only("soften.alpha")),
        "token alignment, relaxed": Way("lightclip", _only("tokens.weight")),
        "token alignment, sinkhorn": Way("lightclip", _only("tokens.weight") | {"tokens.matching": "sinkhorn"}),
        "token alignment, hungarian": Way("lightclip", _only("tokens.weight") | {"tokens.matching": "hungarian"}),
        "hidden words, every block sees the picture": Way("lightclip", _only("words.weight")),
        "hidden words, two blocks see it": Way("lightclip", _only("words.weight") | last),
        "all three terms": Way("lightclip", last),
        "all three and a stored teacher": Way("lightclip", last | taught),
    }


def _only(term: str) -> dict[str, str]:
    """Everything off but one term."""
    return {key: value for key, value in OFF.items() if key != term}


if __name__ == "__main__":
    main()
