"""One backbone for names and outlines against the two models that taught it, on the built-in pictures with masks.

    python -m clip_edge.benchmarks.sam_clip.merge --work DIR

Everything is a command line that anybody may type. Finished runs are kept, so a stopped script goes on where it was;
results are written after every run. `page.py` beside this file makes the page from them.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.sam_clip.averaged import average
from clip_edge.benchmarks.sam_clip.latency import latencies
from clip_edge.benchmarks.sam_clip.pictures import sheet
from clip_edge.benchmarks.sam_clip.pipeline import filled_boxes, pipeline
from clip_edge.benchmarks.scenarios import Rules
from clip_edge.benchmarks.training import call, once, options, train
from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.models.checkpoint import load_student
from clip_edge.files import read_json, write_json
from clip_edge.images import open_image

HERE = Path(__file__).parent
RESULTS = HERE / "merge.json"
DATA = {"images": 3000, "eval-images": 300, "emojis": 100, "unseen": 20, "objects": "1-2", "langs": "en"}
SHARED = {
    "log.tensorboard": "false",
    "log.every_steps": "10",
    "log.checkpoint_every_steps": "1000",
    "evaluation.every_steps": "0",
    "evaluation.stop_at_chance_after": "0",
}
NAMING = {"freeze_image": "true", "batch_size": "512", "steps": "160"}
OUTLINING = {
    "batch_size": "16",
    "steps": "1200",
    "optimizer.lr": "1e-3",
    "schedule.warmup_steps": "40",
    "keep.ema_decay": "0.99",
    "evaluation.limit": "100",
    "workers": "0",
}
STAGE = {"evaluation.limit": "100", "keep.ema_decay": "0.98", "schedule.warmup_steps": "20", "workers": "0"}
PROBE = STAGE | {"stage": "probe", "steps": "150", "batch_size": "64", "optimizer.lr": "2e-3"}
MERGE = STAGE | {
    "stage": "merge",
    "steps": "300",
    "batch_size": "32",
    "masks_batch_size": "4",
    "prompts.count": "2",
    "optimizer.lr": "2e-3",
}
QUICK = {"steps": "4", "batch_size": "16"}  # only for a look
WEIGHTS = ("1", "10", "100")  # the paper's lambda
LONGER = 3  # times as many steps of stage 2: what is missing, the recipe or time?
MASKED = 60  # pictures whose maps are compared
TEACHERS = ("clip-teacher", "sam-teacher")
MEANS = ("averaged-names", "averaged-masks")  # both teachers with the mean of their backbones


@dataclass(frozen=True)
class Place:
    """Where the script works, and how much it does."""

    work: Path
    quick: bool

    @property
    def data(self) -> Path:
        return self.work / "data"

    @property
    def images(self) -> dict[str, Any]:
        """What the data set is made of."""
        return DATA | {"images": 64, "eval-images": 16} if self.quick else DATA

    @property
    def rules(self) -> Rules:
        """When a time has been measured well enough."""
        few = Rules(warmup_s=0, warmup_samples=1, min_duration_s=0, min_samples=3, max_duration_s=0.1, visit_s=0.05)
        return few if self.quick else Rules()

    def has(self, note: str) -> bool:
        """Whether that was measured already."""
        return (self.work / f"{note}.json").is_file()

    def chosen(self, settings: dict[str, str]) -> dict[str, str]:
        """The settings of one training."""
        return SHARED | settings | (QUICK if self.quick else {})


def main() -> None:
    """Make what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, teachers and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="which ones (default: %(default)s)")
    parser.add_argument("--no-timing", action="store_true", help="no pictures and no latency: the machine is busy")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, for a look")
    args = parser.parse_args()
    place = Place(args.work, args.quick)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    teach(place)
    compare_unmerged(place)
    write_json(args.results, collected(place))
    for weight, seed in [*(("10", seed) for seed in seeds), *((one, seeds[0]) for one in WEIGHTS if one != "10")]:
        merge(place, weight, seed)
        write_json(args.results, collected(place))
    merge(place, "10", seeds[0], longer=True)
    write_json(args.results, collected(place))
    if not args.no_timing:
        show(place, args.results.with_name("scenes.png"), merged=f"longer-10-{seeds[0]}")
        write_json(args.results, collected(place))


def teach(place: Place) -> None:
    """The data, both teachers, and what the CLIP teacher says about every picture, with how good they are."""
    once(place.work / "data.json", ["data", "emoji", "--out", str(place.data), *options(place.images)])
    for recipe, name, student, settings in (
        ("clip", "clip-teacher", "clip-teacher.json", NAMING),
        ("segment", "sam-teacher", "student.json", OUTLINING),
    ):
        folder = place.work / name
        if not (folder / "student").is_dir():
            train(recipe, folder, data=place.data, student=HERE / student, chosen=place.chosen(settings))
        measure(place, folder, names=name == "clip-teacher")
    words = ["reinforce", str(place.data), "--teacher", str(place.work / "clip-teacher")]
    plain = ["--crop-scale", "1,1", "--randaugment", "0", "--augmentations", "1"]
    once(place.work / "knowledge.json", [*words, "--out", str(place.work / "knowledge"), *plain, "--captions", "2"])


def compare_unmerged(place: Place) -> None:
    """What needs no merging: both models as a pipeline, and the mean of their weights."""
    namer, outliner = (place.work / name for name in TEACHERS)
    means = [place.work / name for name in MEANS]
    if not all((folder / "student").is_dir() for folder in means):
        average(namer, outliner, (means[0] / "student", means[1] / "student"))
    for folder in means:
        measure(place, folder, names=folder.name == MEANS[0])
    note = place.work / "pipeline.json"
    if not note.is_file():
        loaded = load_student(namer), load_student(outliner)
        test = open_dataset(place.data, "test")
        found = pipeline(*loaded, test, limit=MASKED)
        write_json(note, found | {"filled_box_iou": filled_boxes(test, loaded[1].preprocess, limit=MASKED)})


def show(place: Place, scenes: Path, *, merged: str) -> None:
    """Bundles of both teachers and of a merged student: how long they take, and what they find in ten scenes."""
    bundles = {name: place.work / "bundles" / name for name in (*TEACHERS, merged)}
    for name, bundle in bundles.items():
        run = place.work / name if name in TEACHERS else place.work / "runs" / name
        if not bundle.is_dir():
            call(["export", str(run), "--target", "onnx", "--segment", "--out", str(bundle)])
    namer, outliner, both = bundles.values()
    ways = {"CLIP teacher's patches": (namer, False), "merged: CLIP head": (both, False), "both heads": (both, True)}
    sheet(place.data, ways, scenes)
    note = place.work / "latency.json"
    if not note.is_file():
        picture = open_image(open_dataset(place.data, "test").sample(0).image)
        crops = round(read_json(place.work / "pipeline.json")["crops"])
        write_json(note, latencies(namer, outliner, both, picture, crops=crops, rules=place.rules))


def merge(place: Place, weight: str, seed: int, *, longer: bool = False) -> None:
    """Stages 1 and 2, with the weight of the masks; stage 1 has no masks, so it is shared by all weights."""
    kind, steps = ("longer", str(LONGER * int(MERGE["steps"]))) if longer else ("merge", MERGE["steps"])
    probe, merged = (place.work / "runs" / name for name in (f"probe-{seed}", f"{kind}-{weight}-{seed}"))
    teachers = {"teacher": str(place.work / "clip-teacher"), "knowledge": str(place.work / "knowledge")}
    stages = (
        (probe, PROBE | {"start": str(place.work / "sam-teacher")}),
        (
            merged,
            MERGE
            | {"steps": steps, "masks_weight": weight}
            | {"start": str(probe), "masks_teacher": str(place.work / "sam-teacher")},
        ),
    )
    for run, settings in stages:
        if not (run / "student").is_dir():
            chosen = place.chosen(settings | teachers | {"seed": str(seed)})
            trained = train("sam-clip", run, data=place.data, student=HERE / "student.json", chosen=chosen)
            write_json(run / "trained.json", {"elapsed_s": trained["elapsed_s"]})
    measure(place, merged)


def measure(place: Place, run: Path, *, names: bool = True) -> None:
    """Names, search, maps and outlines on pictures that nobody trained on; kept beside the run."""
    note = run / "measured.json"
    if note.is_file():
        return
    found: dict[str, Any] = {"parameters": _parameters(run / "student" / "model.safetensors")}
    data = ["--data", str(place.data), "--split", "test"]
    if names:
        classes = call(["eval", str(run), *data, "--task", "classify"])["languages"]["en"]
        search = call(["eval", str(run), *data, "--task", "retrieve"])["languages"]["en"]
        found |= {"top_1": classes["top_1"], "text_to_image": search["text_to_image"]["recall_at_1"]}
    maps = call(["eval", str(run), *data, "--task", "segment", "--limit", str(MASKED)])
    found |= {key: maps[key] for key in ("map", "clip_head", "both_heads", "prompted")}
    write_json(note, found)


def _parameters(weights: Path) -> dict[str, int]:
    """Stored values of each part; statistics of BatchNorm count, too."""
    counts = Counter[str]()
    for name, value in load_file(weights).items():
        counts[".".join(name.split(".")[: 2 if name.startswith("image.") else 1])] += value.size
    return dict(counts)


def collected(place: Place) -> dict[str, Any]:
    """All that was measured, and what it was made with."""
    return {
        "schema": 1,
        "environment": dataclasses.asdict(read_environment()),
        "settings": {
            "data": place.images,
            "naming": place.chosen(NAMING),
            "outlining": place.chosen(OUTLINING),
            "probe": place.chosen(PROBE),
            "merge": place.chosen(MERGE),
            "masked_pictures": MASKED,
        },
        "teachers": {name: _measured([place.work / name]) for name in TEACHERS},
        "averaged": {name: _measured([place.work / name]) for name in MEANS},
        **{name: read_json(place.work / f"{name}.json") for name in ("pipeline", "latency") if place.has(name)},
        "longer": _measured(sorted((place.work / "runs").glob("longer-10-*"))),
        "merged": {weight: _measured(sorted((place.work / "runs").glob(f"merge-{weight}-*"))) for weight in WEIGHTS},
    }


def _measured(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """What is known of each run that was measured."""
    found = []
    for run in runs:
        if (run / "measured.json").is_file():
            trained = read_json(run / "trained.json") if (run / "trained.json").is_file() else {}
            found.append({"run": run.name, **trained, **read_json(run / "measured.json")})
    return found


if __name__ == "__main__":
    main()
