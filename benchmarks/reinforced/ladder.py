"""The ladder of MobileCLIP's table of ablations on the built-in data: the same student, the same pictures in the same
order, and one more ingredient on every rung.

    python -m clip_edge.benchmarks.reinforced.ladder --work DIR

Everything is a command line that anybody may type. Finished runs are kept, so a stopped script goes on where it was;
results are written after every run. `page.py` beside this file makes the page from them.
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
from clip_edge.benchmarks.training import logged, once, options, recalls, train
from clip_edge.files import read_json, write_json

HERE = Path(__file__).parent
RESULTS = HERE / "ladder.json"
TEACHERS = ("teacher-1", "teacher-2")
DATA = {"images": 3000, "eval-images": 250, "emojis": 440, "unseen": 40, "objects": "1-2", "langs": "en"}
TEACHING = {"freeze_image": "true", "batch_size": "512", "steps": "160", "evaluation.every_steps": "80"}
TRAINING = {
    "batch_size": "128",
    "steps": "200",
    "optimizer.lr": "2e-3",
    "optimizer.weight_decay": "0.2",
    "optimizer.beta2": "0.95",
    "schedule.warmup_steps": "10",
    "keep.ema_decay": "0.9995",
    "evaluation.split": "test",
    "evaluation.every_steps": "10",
    "evaluation.limit": "250",
    "evaluation.stop_at_chance_after": "0",
    "log.every_steps": "10",
    "log.tensorboard": "false",
    "log.checkpoint_every_steps": "1000",
}
QUICK = {"steps": "4", "batch_size": "16", "evaluation.every_steps": "2", "log.every_steps": "2"}  # only for a look
PLAIN = ("--crop-scale", "1,1", "--randaugment", "0", "--augmentations", "1")  # the picture as it is
STRONG = ("--augmentations", "3")
KEPT = ("step", "true/kl", "synthetic/kl", "images_per_s", "test/text_to_image/recall_at_1")  # for the page


@dataclass(frozen=True)
class Knowledge:
    """What `clip-edge reinforce` stores: who is asked, and about what."""

    teachers: tuple[str, ...]
    words: tuple[str, ...]
    dtype: str = "bf16"


@dataclass(frozen=True)
class Rung:
    """One way of training. Without knowledge it is plain CLIP."""

    title: str
    knowledge: str | None = None
    settings: tuple[tuple[str, str], ...] = ()


KNOWLEDGE = {
    "as-it-is": Knowledge(("teacher-1",), PLAIN),
    "augmented": Knowledge(("teacher-1",), STRONG),
    "augmented-int8": Knowledge(("teacher-1",), STRONG, "int8"),
    "two-teachers": Knowledge(("teacher-1", "teacher-2"), STRONG),
}
RUNGS = {
    "plain": Rung("plain CLIP"),
    "captions": Rung("+ synthetic captions", "as-it-is", (("distill_weight", "0"),)),
    "distilled": Rung("+ distillation", "as-it-is"),
    "augmented": Rung("+ strong augmentation", "augmented"),
    "two-teachers": Rung("+ second teacher", "two-teachers"),
    "augmented-int8": Rung("one teacher, int8 rows", "augmented-int8"),
}


@dataclass(frozen=True)
class Place:
    """Where the script works, and how much it does."""

    work: Path
    data: dict[str, Any]
    teaching: dict[str, str]
    training: dict[str, str]

    def run(self, name: str, seed: int) -> Path:
        """The folder of one training."""
        return self.work / "runs" / f"{name}-{seed}"

    def note(self, name: str) -> Path:
        """The file that says that something is done, and what came out."""
        return self.work / f"{name}.json"


def place_at(work: Path, *, quick: bool) -> Place:
    """The folder `work` with the settings of the page, or with hardly any pictures and steps."""
    if quick:
        return Place(work, DATA | {"images": 64, "eval-images": 16}, TEACHING | QUICK, TRAINING | QUICK)
    return Place(work, DATA, TEACHING, TRAINING)


def main() -> None:
    """Make what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, teachers and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    parser.add_argument("--rungs", default=",".join(RUNGS), help="which ones (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="which ones (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, for a look")
    args = parser.parse_args()
    climb(
        place_at(args.work, quick=args.quick),
        args.rungs.split(","),
        [int(seed) for seed in args.seeds.split(",")],
        args.results,
    )


def climb(place: Place, rungs: Sequence[str], seeds: Sequence[int], results: Path) -> None:
    """Every rung with every seed; `results` is written again after each."""
    asked = [KNOWLEDGE[name].teachers for name in (RUNGS[rung].knowledge for rung in rungs) if name is not None]
    teach(place, sorted({teacher for several in asked for teacher in several}))
    for seed, name in itertools.product(seeds, rungs):
        done = place.run(name, seed) / "ladder.json"
        if not done.is_file():
            ask(place, RUNGS[name].knowledge)
            write_json(done, _train(place, name, seed))
        write_json(results, collected(place))


def teach(place: Place, teachers: Sequence[str]) -> None:
    """The data, and the teachers with how good they are."""
    data = str(place.work / "data")
    once(place.note("data"), ["data", "emoji", "--out", data, *options(place.data)])
    for name in teachers:
        folder = place.work / name
        if not (folder / "student").is_dir():
            train("clip", folder, data=place.work / "data", student=HERE / f"{name}.json", chosen=place.teaching)
        once(place.note(name), ["eval", str(folder), "--data", data])


def ask(place: Place, name: str | None) -> None:
    """Store what the teachers know, as `KNOWLEDGE[name]` wants it; None: nobody is asked."""
    if name is None:
        return
    one = KNOWLEDGE[name]
    teachers = [word for teacher in one.teachers for word in ("--teacher", str(place.work / teacher))]
    words = ["reinforce", str(place.work / "data"), *teachers, "--out", str(place.work / "knowledge" / name)]
    once(place.note(f"knowledge-{name}"), [*words, *one.words, "--captions", "2", "--dtype", one.dtype])


def _train(place: Place, name: str, seed: int) -> dict[str, Any]:
    """One training and what came out."""
    rung, run = RUNGS[name], place.run(name, seed)
    recipe, chosen = "clip", place.training | {"seed": str(seed)} | dict(rung.settings)
    if rung.knowledge is not None:
        recipe, chosen = "mobileclip", chosen | {"knowledge": str(place.work / "knowledge" / rung.knowledge)}
    trained = train(recipe, run, data=place.work / "data", student=HERE / "student.json", chosen=chosen)
    final = recalls(run, place.work / "data")
    return {"seed": seed, "cpu": read_environment().cpu, "elapsed_s": trained["elapsed_s"], "final": final}


def collected(place: Place) -> dict[str, Any]:
    """All finished runs with their curves, and what they were made with."""
    rungs = []
    for name, rung in RUNGS.items():
        runs = [
            read_json(done) | {"log": logged(done.parent, KEPT)}
            for done in sorted((place.work / "runs").glob(f"{name}-[0-9]*/ladder.json"))
        ]
        rungs.append({"name": name, **dataclasses.asdict(rung), "runs": runs})
    knowledge = {name: place.note(f"knowledge-{name}") for name in KNOWLEDGE}
    return {
        "schema": 1,
        "environment": dataclasses.asdict(read_environment()),
        "data": place.data,
        "teaching": place.teaching,
        "training": place.training,
        "student": read_json(HERE / "student.json"),
        "teachers": {
            name: read_json(place.note(name))["languages"]["en"] for name in TEACHERS if place.note(name).is_file()
        },
        "knowledge": {
            name: dataclasses.asdict(KNOWLEDGE[name]) | {"bytes_per_sample": read_json(path)["bytes_per_sample"]}
            for name, path in knowledge.items()
            if path.is_file()
        },
        "rungs": rungs,
    }


if __name__ == "__main__":
    main()
