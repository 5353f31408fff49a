"""What the two stages of the recipe `dc-clip` gain over training one small student on pairs of all languages, and what
it costs to speak several: the same student on the same number of pictures, on the built-in data.

    python -m clip_edge.benchmarks.dc_clip.ladder --work DIR
    python -m clip_edge.benchmarks.dc_clip.ladder --work OTHER --langs ar,ja,ko,ru --results OTHER.json

Everything is a command line that anybody may type. Finished runs are kept, so a stopped script goes on where it was;
results are written after every run. `page.py` beside this file makes the page.
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
from clip_edge.benchmarks.training import SPLITS, call, once, options, train
from clip_edge.files import read_json, write_json

HERE = Path(__file__).parent
RESULTS = HERE / "ladder.json"
LANGS = ("en", "zh")
DATA = {"images": 3000, "eval-images": 300, "emojis": 300, "unseen": 40, "objects": "1-2"}
TEACHING = {
    "freeze_image": "true",
    "batch_size": "256",
    "steps": "160",
    "optimizer.lr": "2e-3",
    "schedule.warmup_steps": "16",
    "keep.ema_decay": "0.98",
    "evaluation.split": "",
    "log.tensorboard": "false",
}
TRAINING = {
    "batch_size": "128",
    "schedule.warmup_steps": "10",
    "evaluation.split": "",
    "evaluation.stop_at_chance_after": "0",
    "log.every_steps": "10",
    "log.tensorboard": "false",
    "log.checkpoint_every_steps": "1000",
}
STEPS = 120  # of every arm, both stages together
LONGER = 4  # times as many steps: what is missing, the recipe or time?
ALIGNING = 30  # of them are stage 2, where there is one
QUICK = {"steps": "4", "batch_size": "16", "evaluation.every_steps": "2", "log.every_steps": "2"}  # only for a look


@dataclass(frozen=True)
class Arm:
    """One way of training. `start` is the arm whose student it goes on from."""

    title: str
    recipe: str
    steps: int = STEPS
    settings: tuple[tuple[str, str], ...] = ()
    one_language: bool = False
    taught: bool = False
    start: str | None = None
    shown: bool = True


ARMS = {
    "direct": Arm("pairs of all languages (`clip`)", "clip", settings=(("optimizer.lr", "2e-3"),)),
    "features": Arm("stage 1 alone", "dc-clip", settings=(("optimizer.lr", "2e-3"),), taught=True),
    "longer": Arm(
        f"stage 1 alone, {LONGER} times as long", "dc-clip", LONGER * STEPS, (("optimizer.lr", "2e-3"),), taught=True
    ),
    "before": Arm(
        "stage 1 before stage 2", "dc-clip", STEPS - ALIGNING, (("optimizer.lr", "2e-3"),), taught=True, shown=False
    ),
    "both": Arm(
        "stages 1 and 2",
        "dc-clip",
        ALIGNING,
        (("stage", "alignment"), ("optimizer.lr", "5e-4")),
        start="before",
    ),
    "one-language": Arm(
        "pairs of the first language (`clip`)", "clip", settings=(("optimizer.lr", "2e-3"),), one_language=True
    ),
}


@dataclass(frozen=True)
class Place:
    """Where the script works, in which languages, and how much it does."""

    work: Path
    langs: tuple[str, ...] = LANGS
    quick: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """What `data emoji` is asked for."""
        few = {"images": 64, "eval-images": 16} if self.quick else {}
        return DATA | few | {"langs": ",".join(self.langs)}

    def run(self, name: str, seed: int) -> Path:
        """The folder of one training."""
        return self.work / "runs" / f"{name}-{seed}"

    def chosen(self, name: str, seed: int) -> dict[str, str]:
        """The settings of one training."""
        arm = ARMS[name]
        found = TRAINING | {"seed": str(seed), "steps": str(arm.steps)} | dict(arm.settings)
        if arm.taught:
            found["teacher"] = str(self.work / "teacher")
        if arm.start is not None:
            found["start"] = str(self.run(arm.start, seed))
        if arm.one_language:
            found["langs"] = f'["{self.langs[0]}"]'
        return found | (QUICK if self.quick else {})


def main() -> None:
    """Make what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, teacher and runs, of one --langs")
    parser.add_argument("--langs", default=",".join(LANGS), help="languages of the captions (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    parser.add_argument("--arms", default=",".join(ARMS), help="which ones (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="which ones (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, for a look")
    args = parser.parse_args()
    place = Place(args.work, tuple(args.langs.split(",")), args.quick)
    climb(place, args.arms.split(","), [int(seed) for seed in args.seeds.split(",")], args.results)


def climb(place: Place, arms: Sequence[str], seeds: Sequence[int], results: Path) -> None:
    """Every arm with every seed; `results` is written again after each."""
    teach(place)
    for seed, name in itertools.product(seeds, arms):
        done = place.run(name, seed) / "ladder.json"
        if not done.is_file():
            write_json(done, _train(place, name, seed))
        write_json(results, collected(place))


def teach(place: Place) -> None:
    """The data, and the teacher with how good it is."""
    data, folder = place.work / "data", place.work / "teacher"
    once(place.work / "data.json", ["data", "emoji", "--out", str(data), *options(place.data)])
    if not (folder / "student").is_dir():
        train("clip", folder, data=data, student=HERE / "teacher.json", chosen=_teaching(place))
    note = place.work / "teacher.json"
    if not note.is_file():
        write_json(note, measured(folder, data, place.langs))


def _teaching(place: Place) -> dict[str, str]:
    return TEACHING | (QUICK if place.quick else {})


def _train(place: Place, name: str, seed: int) -> dict[str, Any]:
    """One training and what came out; nothing is measured of one that only begins another."""
    arm, run, data = ARMS[name], place.run(name, seed), place.work / "data"
    trained = train(arm.recipe, run, data=data, student=HERE / "student.json", chosen=place.chosen(name, seed))
    found = {"seed": seed, "elapsed_s": trained["elapsed_s"]}
    return found | (measured(run, data, place.langs) if arm.shown else {})


def measured(run: Path, data: Path, langs: Sequence[str]) -> dict[str, Any]:
    """Parameters, and per split and language: R@1 in both directions, and zero-shot top-1."""
    final: dict[str, Any] = {}
    for split in SPLITS:
        words = ["eval", str(run), "--data", str(data), "--split", split, "--lang", ",".join(langs)]
        searched, named = call(words)["languages"], call([*words, "--task", "classify"])["languages"]
        final[split] = {
            lang: {way: searched[lang][way]["recall_at_1"] for way in ("text_to_image", "image_to_text")}
            | {"top_1": named[lang]["top_1"]}
            for lang in langs
        }
    counted = read_json(run / "student" / "model.json")["student"]["parameters"]
    return {"parameters": sum(counted.values()) + 1, "final": final}  # and the scale between the towers


def collected(place: Place) -> dict[str, Any]:
    """All finished runs, and what they were made with."""
    arms = []
    for name, arm in ARMS.items():
        runs = [read_json(done) for done in sorted((place.work / "runs").glob(f"{name}-[0-9]*/ladder.json"))]
        arms.append({"name": name, **dataclasses.asdict(arm), "runs": runs})
    return {
        "schema": 1,
        "environment": dataclasses.asdict(read_environment()),
        "langs": list(place.langs),
        "data": place.data,
        "teaching": _teaching(place),
        "training": TRAINING,
        "student": read_json(HERE / "student.json"),
        "teacher": read_json(HERE / "teacher.json") | read_json(place.work / "teacher.json"),
        "arms": arms,
    }


if __name__ == "__main__":
    main()
