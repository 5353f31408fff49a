"""What each term of the recipe `lightclip` gains on the built-in data, and whether masked words make deep text towers
worth their layers: the same student, the same pictures in the same order, one more term on every rung.

    python -m clip_edge.benchmarks.lightclip.ladder --work DIR

`--work` is the folder of `benchmarks/reinforced/ladder.py`: data, teacher and knowledge are shared, and made when they
are missing. Finished runs are kept; results are written after every run. `page.py` beside this file makes the page.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.reinforced import ladder as reinforced
from clip_edge.benchmarks.training import SPLITS, call, recalls, train
from clip_edge.files import read_json, write_json

HERE = Path(__file__).parent
RESULTS = HERE / "ladder.json"
STUDENT = HERE / "student.json"
DEPTHS = (4, 2, 8)  # layers of the text tower; the first is that of the ladder
KNOWLEDGE = "as-it-is"
TRAINING = {
    "batch_size": "96",
    "steps": "100",
    "optimizer.lr": "2e-3",
    "schedule.warmup_steps": "10",
    "keep.ema_decay": "0.9995",
    "evaluation.split": "",
    "log.every_steps": "10",
    "log.tensorboard": "false",
    "log.checkpoint_every_steps": "1000",
}
OFF = {"soften.alpha": "0", "tokens.weight": "0", "words.weight": "0"}


@dataclass(frozen=True)
class Rung:
    """Which terms are switched on, and which depths of the text tower are tried."""

    title: str
    on: tuple[str, ...]
    depths: tuple[int, ...] = DEPTHS[:1]
    taught: bool = False


RUNGS = {
    "plain": Rung("plain CLIP", ()),
    "softened": Rung("+ softened labels", ("soften.alpha",)),
    "tokens": Rung("+ token alignment", ("soften.alpha", "tokens.weight"), DEPTHS),
    "words": Rung("+ hidden words", tuple(OFF), DEPTHS),
    "taught": Rung("+ stored teacher", tuple(OFF), taught=True),
}


def main() -> None:
    """Make what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, teacher and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="which ones (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, for a look")
    args = parser.parse_args()
    place, training = reinforced.place_at(args.work, quick=args.quick), TRAINING
    if args.quick:
        training = TRAINING | {"steps": "2", "batch_size": "16", "log.every_steps": "1"}
    climb(place, training, [int(seed) for seed in args.seeds.split(",")], args.results)


def climb(place: reinforced.Place, training: dict[str, str], seeds: Sequence[int], results: Path) -> None:
    """Every rung with every seed, then the other depths; `results` is written again after each run."""
    reinforced.teach(place, reinforced.KNOWLEDGE[KNOWLEDGE].teachers)
    reinforced.ask(place, KNOWLEDGE)
    for depth, seed, (name, rung) in itertools.product(DEPTHS, seeds, RUNGS.items()):
        if depth in rung.depths:
            done = _run(place, name, depth, seed) / "ladder.json"
            if not done.is_file():
                write_json(done, _train(place, training, name, depth, seed))
            write_json(results, collected(place, training))


def _run(place: reinforced.Place, name: str, depth: int, seed: int) -> Path:
    """The folder of one training."""
    return place.work / "light" / f"{name}-{depth}-{seed}"


def chosen(name: str, depth: int) -> dict[str, str]:
    """The settings that make a rung. The picture comes into the middle and the last block of the text tower."""
    rung = RUNGS[name]
    terms = {key: value for key, value in OFF.items() if key not in rung.on}
    return terms | {"words.layers": str([depth // 2 - 1, depth - 1])}


def student(folder: Path, depth: int) -> Path:
    """The student's file with a text tower of `depth` layers, in `folder`."""
    spec = read_json(STUDENT)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"student-{depth}.json"
    write_json(path, spec | {"text": spec["text"] | {"depth": depth}})
    return path


def _train(place: reinforced.Place, training: dict[str, str], name: str, depth: int, seed: int) -> dict[str, Any]:
    """One training and what came out: retrieval and zero-shot classification."""
    run, data = _run(place, name, depth, seed), place.work / "data"
    settings = training | {"seed": str(seed)} | chosen(name, depth)
    if RUNGS[name].taught:
        settings |= {"teacher": "reinforced", "knowledge": str(place.work / "knowledge" / KNOWLEDGE)}
    trained = train("lightclip", run, data=data, student=student(place.work / "light", depth), chosen=settings)
    final = recalls(run, data)
    for split in SPLITS:
        found = call(["eval", str(run), "--data", str(data), "--split", split, "--task", "classify"])
        final[split]["top_1"] = found["languages"]["en"]["top_1"]
    return {"seed": seed, "depth": depth, "elapsed_s": trained["elapsed_s"], "final": final}


def collected(place: reinforced.Place, training: dict[str, str]) -> dict[str, Any]:
    """All finished runs, and what they were made with."""
    rungs = [
        {
            "name": name,
            **dataclasses.asdict(rung),
            "runs": [read_json(path) for path in sorted((place.work / "light").glob(f"{name}-*-*/ladder.json"))],
        }
        for name, rung in RUNGS.items()
    ]
    teacher = reinforced.KNOWLEDGE[KNOWLEDGE].teachers[0]
    return {
        "schema": 1,
        "environment": dataclasses.asdict(read_environment()),
        "data": place.data,
        "training": training,
        "student": read_json(STUDENT),
        "teacher": read_json(place.note(teacher))["languages"]["en"],
        "rungs": rungs,
    }


if __name__ == "__main__":
    main()
