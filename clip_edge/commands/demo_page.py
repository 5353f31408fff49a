"""What the demo shows and judges: goals, sample searches with the exported model, and the page made of all that."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_edge.benchmarks.page import Chart, Check, Command, Headline, Hit, Page, Search, Table
from clip_edge.benchmarks.plots import Line
from clip_edge.benchmarks.report import Report, read_report
from clip_edge.benchmarks.tables import duration
from clip_edge.bundle import Bundle, Manifest
from clip_edge.files import human_bytes, read_bounded, read_json

if TYPE_CHECKING:
    from clip_edge.demo import Done, Goals
    from clip_edge.distill.models.operations import Operations

SEARCHES = (("val", "en", 4), ("val", "zh", 2), ("unseen", "en", 2))  # split, language, how many
SPLITS = ("val", "unseen")
MODELS = ("teacher", "student")
SHOWN = 5
MAX_SHEET_BYTES = 16 * 1024 * 1024
LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
SPLIT_NAMES = {"val": "new scenes", "unseen": "unseen emoji"}

Results = Mapping[str, "Done"]


def checks(results: Results, out: Path, goals: Goals | None) -> tuple[Check, ...]:
    """Everything that had to hold: the goals, where there are some, parity, and every step's own."""
    made = [] if goals is None else _reached(results, out, goals)
    for row in results["verify"].data["towers"]:
        title = f"{row['tower'].capitalize()} tower, {row['precision']}: the embeddings of PyTorch"
        wanted = f"cosine at least {row['tolerance']} in {row['cases']} of {row['cases']} cases"
        made.append(Check(title, wanted, f"{row['min_cosine']:.7f}", row["problem"] is None))
    for name, done in results.items():
        if not done.passed:
            made.append(Check(done.step.command, "exit code 0", f"see step `{name}`", False))
    return tuple(made)


def _reached(results: Results, out: Path, goals: Goals) -> list[Check]:
    found = _recalls(results, "teacher")
    made = []
    for name, least in goals.teacher.items():
        share = found[name]["value"]
        title = f"Teacher, text to image, val, English, R@{name.rpartition('_')[2]}"
        made.append(Check(title, f"at least {least:.0%}", f"{share:.1%}", share >= least))
    told = comparison(results, out)
    kept, fewer = told["recall_kept"], told["operations_factor"]
    made.append(Check("Student, of the teacher's R@1", f"at least {goals.kept:.0%}", f"{kept:.1%}", kept >= goals.kept))
    wanted = f"at least {goals.fewer:g} times fewer"
    made.append(Check("Student, operations of both towers", wanted, f"{fewer:.2f} times", fewer >= goals.fewer))
    return made


def summary(results: Results, out: Path, judged: Sequence[Check], page: Path) -> dict[str, Any]:
    """demo.json: what was run, how long it took, and what came out."""
    return {
        "passed": all(check.passed for check in judged),
        "report": str(page),
        "elapsed_s": round(sum(done.seconds for done in results.values()), 1),
        "checks": [vars(check) for check in judged],
        **{name: {split: results[f"{name}-{split}"].data["languages"] for split in SPLITS} for name in MODELS},
        "comparison": comparison(results, out),
        "steps": [
            {"command": done.step.command, "seconds": round(done.seconds, 2), "passed": done.passed}
            for done in results.values()
        ],
    }


def comparison(results: Results, out: Path) -> dict[str, Any]:
    """Student against teacher: the share of R@1 that is left (val, English, text to image), and what it costs."""
    operations = _operations(out)
    counts = {name: operations[name].image + operations[name].text for name in MODELS}
    recalls = {name: _recalls(results, name)["recall_at_1"]["value"] for name in MODELS}
    return {
        "recall_kept": recalls["student"] / recalls["teacher"] if recalls["teacher"] else 0.0,
        "operations_factor": counts["teacher"] / counts["student"],
        "operations": {name: vars(operations[name]) for name in MODELS},
    }


def _recalls(results: Results, model: str) -> Mapping[str, Any]:
    """Text to image on val, in English."""
    found: Mapping[str, Any] = results[f"{model}-val"].data["languages"]["en"]["text_to_image"]
    return found


@cache
def _operations(out: Path) -> dict[str, Operations]:
    from clip_edge.distill.models.checkpoint import load_student
    from clip_edge.distill.models.operations import count_operations

    folders = {"teacher": out / "teacher", "student": out / "run"}
    return {name: count_operations(load_student(folder).student) for name, folder in folders.items()}


def make_page(out: Path, results: Results, judged: tuple[Check, ...]) -> Page:
    """The page of a finished demo in `out`."""
    bundle = Bundle.open(out / "bundle")
    report = read_report(out / "bench")
    data = read_json(out / "data" / "dataset.json")
    trained = data["splits"]["train"]["samples"]
    agreement = min(results["verify"].data["top1_agreement"].values(), default=0.0)
    licence = data["licence"]
    return Page(
        title="From pictures to a small CLIP model",
        subtitle=f"A teacher trained on {trained:,} scenes of OpenMoji drawings, a student that learnt from what the "
        "teacher knows, exported to ONNX, proved equal to what was trained, and measured on this machine.",
        headlines=_headlines(results, report, bundle.manifest, comparison(results, out)),
        checks=judged,
        searches=tuple(_searches(out)),
        retrieval=_retrieval(results),
        comparison=_side_by_side(results, out, report),
        comparison_note=_comparison_note(out),
        charts=(*_charts("Student", out / "run"), *_charts("Teacher", out / "teacher")),
        parity=_parity(results["verify"].data["towers"]),
        parity_note=f"The nearest sentence is the same for {agreement:.0%} of the pictures.",
        facts=_facts(bundle.manifest),
        commands=tuple(Command(done.step.command, done.seconds) for done in results.values()),
        contact_sheet=read_bounded(out / "data" / "contact-sheet.png", MAX_SHEET_BYTES),
        attribution=f"Pictures: {licence['attribution']} ({licence['name']}, {licence['url']}).",
        report=report,
    )


def _headlines(results: Results, report: Report, manifest: Manifest, told: Mapping[str, Any]) -> tuple[Headline, ...]:
    median_s = _medians(report, manifest.name)
    size_bytes = sum(manifest.files[artifact.path].bytes for artifact in manifest.artifacts)
    minutes, seconds = divmod(round(sum(done.seconds for done in results.values())), 60)
    return (
        Headline(_percent(_recalls(results, "student")["recall_at_1"]["value"]), "text to image R@1, new scenes"),
        Headline(_percent(told["recall_kept"]), "of its teacher's R@1"),
        Headline(f"{told['operations_factor']:.1f} ×", "fewer operations than its teacher"),
        Headline(duration(median_s["image"]), "a picture, one thread"),
        Headline(human_bytes(size_bytes), "both towers, fp32"),
        Headline(f"{minutes} min {seconds} s", "for all of it, here"),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _medians(report: Report, bundle: str) -> dict[str, float]:
    """The median time of one picture and of one sentence on one thread."""
    one = [row for row in report.results if (row.scenario, row.batch, row.threads) == ("single-stream", 1, 1)]
    return {row.tower: row.latency_s.p50 for row in one if row.bundle == bundle}


def _side_by_side(results: Results, out: Path, report: Report) -> Table:
    """Teacher and student in one table, a property per row."""
    operations = _operations(out)
    manifests = {
        "teacher": Bundle.open(out / "teacher-bundle").manifest,
        "student": Bundle.open(out / "bundle").manifest,
    }
    rows = []
    for lang in LANGUAGE_NAMES:
        languages = {name: results[f"{name}-val"].data["languages"][lang] for name in MODELS}
        for k in (1, 10):
            cells = [_share(languages[name]["text_to_image"][f"recall_at_{k}"]) for name in MODELS]
            rows.append([f"text to image R@{k}, {LANGUAGE_NAMES[lang]}", *cells, ""])
        top = [_share(results[f"{name}-classify"].data["languages"][lang]["top_1"]) for name in MODELS]
        rows.append([f"zero-shot top-1, {LANGUAGE_NAMES[lang]}", *top, ""])
    for tower in ("image", "text"):
        counts = [getattr(operations[name], tower) for name in MODELS]
        rows.append([f"multiply-adds, {tower} tower", *(f"{n / 1e6:.1f} M" for n in counts), _factor(counts)])
    totals = [operations[name].image + operations[name].text for name in MODELS]
    rows.append(["multiply-adds, both", *(f"{n / 1e6:.1f} M" for n in totals), _factor(totals)])
    artifacts = {name: manifests[name].artifacts for name in MODELS}
    weights = [sum(item.parameters for item in artifacts[name]) for name in MODELS]
    rows.append(["parameters, both", *(f"{n / 1e6:.2f} M" for n in weights), _factor(weights)])
    sizes = [sum(manifests[name].files[item.path].bytes for item in artifacts[name]) for name in MODELS]
    rows.append(["files, both", *(human_bytes(n) for n in sizes), _factor(sizes)])
    medians = {name: _medians(report, manifests[name].name) for name in MODELS}
    for tower, what in (("image", "a picture"), ("text", "a sentence")):
        times = [medians[name][tower] for name in MODELS]
        rows.append([f"{what}, one thread", *(duration(s) for s in times), _factor(times)])
    return Table(("", ">teacher", ">student", ">factor"), rows)


def _factor(pair: Sequence[float]) -> str:
    return f"{pair[0] / pair[1]:.1f} ×"


def _comparison_note(out: Path) -> str:
    """Who taught whom, with what, and where both began."""
    job = read_json(out / "knowledge" / "train" / "reinforce.json")["job"]
    views = "one augmented view" if job["augmentations"] == 1 else f"{job['augmentations']} augmented views"
    return (
        "The teacher is a frozen EfficientNet-Lite0 from ImageNet, with a projection and a text tower trained here. "
        "The student is the first four levels of the same network at 56 instead of 96 pixels, all of it trained here, "
        "with a text tower from scratch. It learnt from stored knowledge alone: "
        f"{views} of every picture, the captions of the data, {job['captions']} new in each language, and what "
        "the teacher makes of all of them. Recalls and zero-shot are on new scenes."
    )


def _retrieval(results: Results) -> Table:
    rows = []
    for model, split in itertools.product(MODELS, SPLITS):
        for lang, found in results[f"{model}-{split}"].data["languages"].items():
            for direction in ("text_to_image", "image_to_text"):
                figure = found[direction]
                recalls = [_share(figure[f"recall_at_{k}"]) for k in (1, 5, 10)]
                sizes = [f"{figure['queries']:,}", f"{figure['candidates']:,}"]
                name = LANGUAGE_NAMES.get(lang, lang)
                rows.append([model, SPLIT_NAMES[split], name, direction.replace("_", " "), *sizes, *recalls])
    return Table(("model", "pictures", "language", "search", ">queries", ">candidates", ">R@1", ">R@5", ">R@10"), rows)


def _share(figure: Mapping[str, float]) -> str:
    return f"{100 * figure['value']:.1f} % ({100 * figure['low']:.0f}–{100 * figure['high']:.0f})"


def _parity(towers: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("tower", "precision", ">cases", ">min cosine", ">mean cosine", ">max abs", ">needed", "")
    rows = [
        [
            *(row["tower"], row["precision"], str(row["cases"])),
            *(f"{row['min_cosine']:.7f}", f"{row['mean_cosine']:.7f}", f"{row['max_abs']:.1e}", str(row["tolerance"])),
            row["problem"] or "✓",
        ]
        for row in towers
    ]
    return Table(columns, rows)


def _charts(name: str, run: Path) -> tuple[Chart, ...]:
    from clip_edge.distill.metrics import read_metrics

    rows = read_metrics(run / "metrics.jsonl")

    def line(key: str, title: str) -> Line:
        return Line(title, tuple((row["step"], row[key]) for row in rows if row.get(key) is not None))

    losses = sorted({key for row in rows for key in row if key.endswith(("loss", "/kl"))})
    recalls = [line(f"val/text_to_image/recall_at_{k}", f"R@{k}") for k in (1, 5, 10)]
    return (
        Chart(f"{name}: loss", tuple(line(key, _told(key)) for key in losses)),
        Chart(f"{name}: text to image on val", tuple(recalls), percent=True),
    )


def _told(key: str) -> str:
    return key.replace("_", " ").replace("/kl", " captions, KL to the teacher")


def _facts(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    parts = [f"{item.parameters:,} {item.tower}" for item in manifest.artifacts]
    sizes = [f"{item.path} {human_bytes(manifest.files[item.path].bytes)}" for item in manifest.artifacts]
    picture, text = manifest.image.preprocess, manifest.text
    licences = [
        f"{licence.applies_to}: {licence.name}{' (research only)' if licence.research_only else ''}"
        for licence in manifest.licences
    ]
    use = "research only" if manifest.research_only else "any use that these licences allow"
    return (
        ("student", manifest.source.name),
        ("parameters", " · ".join(parts)),
        ("files", " · ".join(sizes)),
        ("embedding", f"{manifest.embedding.dim} numbers, space {manifest.embedding.space}"),
        ("pictures", f"{picture.size} × {picture.size} px, {picture.interpolation}"),
        ("sentences", f"up to {text.tokenizer.context_length} tokens"),
        ("licences", "; ".join([*licences, use])),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    )


def _searches(out: Path) -> list[Search]:
    """Searches with the exported model, at even distances through each split: picked before the results are known."""
    from clip_edge.distill.data.readers import open_dataset
    from clip_edge.runtime import load

    found = []
    with load(out / "bundle") as model:
        for split in SPLITS:
            dataset = open_dataset(out / "data", split)
            samples = [dataset.sample(i) for i in range(len(dataset))]
            images = model.encode_images([sample.image for sample in samples])
            for lang, count in [(lang, count) for name, lang, count in SEARCHES if name == split]:
                asked = [(i * 2 + 1) * len(samples) // (2 * count) for i in range(count)]
                texts = [samples[i].captions[lang][0] for i in asked]
                cosines = model.encode_texts(texts) @ images.T  # (count, N)
                pictures = [sample.image for sample in samples]
                found += [
                    _search(text, lang, split, right, row, pictures)
                    for text, right, row in zip(texts, asked, cosines, strict=True)
                ]
    return found


def _search(text: str, lang: str, split: str, right: int, cosines: np.ndarray, pictures: Sequence[bytes]) -> Search:
    """The first five pictures; where the right one is further down, it takes the fifth place."""
    order = [int(i) for i in np.argsort(-cosines, kind="stable")]
    rank = order.index(right) + 1
    shown = order[:SHOWN] if rank <= SHOWN else [*order[: SHOWN - 1], right]
    hits = tuple(Hit(pictures[i], float(cosines[i]), i == right) for i in shown)
    return Search(text, lang, SPLIT_NAMES[split], rank, len(order), hits)
