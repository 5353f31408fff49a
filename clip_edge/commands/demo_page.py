"""What the demo shows and judges: goals, sample searches with the exported model, and the page made of all that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from clip_edge.demo import Done

SEARCHES = (("val", "en", 4), ("val", "zh", 2), ("unseen", "en", 2))  # split, language, how many
SPLITS = ("val", "unseen")
SHOWN = 5
MAX_SHEET_BYTES = 16 * 1024 * 1024
LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
SPLIT_NAMES = {"val": "new scenes", "unseen": "unseen emoji"}

Results = Mapping[str, "Done"]


def checks(results: Results, goals: Mapping[str, float] | None) -> tuple[Check, ...]:
    """Everything that had to hold: recalls on val in English where there are goals, parity, and every step's own."""
    made = []
    found = results["eval-val"].data["languages"]["en"]["text_to_image"]
    for name, least in (goals or {}).items():
        share = found[name]["value"]
        title = f"Text to image, val, English, R@{name.rpartition('_')[2]}"
        made.append(Check(title, f"at least {least:.0%}", f"{share:.1%}", share >= least))
    for row in results["verify"].data["towers"]:
        title = f"{row['tower'].capitalize()} tower, {row['precision']}: the embeddings of PyTorch"
        wanted = f"cosine at least {row['tolerance']} in {row['cases']} of {row['cases']} cases"
        made.append(Check(title, wanted, f"{row['min_cosine']:.7f}", row["problem"] is None))
    for name, done in results.items():
        if not done.passed:
            made.append(Check(done.step.command, "exit code 0", f"see step `{name}`", False))
    return tuple(made)


def summary(results: Results, judged: Sequence[Check], page: Path) -> dict[str, Any]:
    """demo.json: what was run, how long it took, and what came out."""
    return {
        "passed": all(check.passed for check in judged),
        "report": str(page),
        "elapsed_s": round(sum(done.seconds for done in results.values()), 1),
        "checks": [vars(check) for check in judged],
        "retrieval": {split: results[f"eval-{split}"].data["languages"] for split in SPLITS},
        "steps": [
            {"command": done.step.command, "seconds": round(done.seconds, 2), "passed": done.passed}
            for done in results.values()
        ],
    }


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
        subtitle=f"A student trained on {trained:,} scenes of OpenMoji drawings, exported to ONNX, "
        "proved equal to what was trained, and measured on this machine.",
        headlines=_headlines(results, report, bundle.manifest),
        checks=judged,
        searches=tuple(_searches(out)),
        retrieval=_retrieval(results),
        charts=_charts(out / "run" / "metrics.jsonl"),
        parity=_parity(results["verify"].data["towers"]),
        parity_note=f"The nearest sentence is the same for {agreement:.0%} of the pictures.",
        facts=_facts(bundle.manifest),
        commands=tuple(Command(done.step.command, done.seconds) for done in results.values()),
        contact_sheet=read_bounded(out / "data" / "contact-sheet.png", MAX_SHEET_BYTES),
        attribution=f"Pictures: {licence['attribution']} ({licence['name']}, {licence['url']}).",
        report=report,
    )


def _headlines(results: Results, report: Report, manifest: Manifest) -> tuple[Headline, ...]:
    recall = results["eval-val"].data["languages"]["en"]["text_to_image"]["recall_at_1"]["value"]
    one = [row for row in report.results if (row.scenario, row.batch, row.threads) == ("single-stream", 1, 1)]
    median_s = {row.tower: row.latency_s.p50 for row in one}
    size_bytes = sum(manifest.files[artifact.path].bytes for artifact in manifest.artifacts)
    minutes, seconds = divmod(round(sum(done.seconds for done in results.values())), 60)
    return (
        Headline(f"{recall:.1%}".replace("%", " %"), "text to image R@1, new scenes"),
        Headline(duration(median_s["image"]), "a picture, one thread"),
        Headline(duration(median_s["text"]), "a sentence, one thread"),
        Headline(human_bytes(size_bytes), "both towers, fp32"),
        Headline(f"{minutes} min {seconds} s", "for all of it, here"),
    )


def _retrieval(results: Results) -> Table:
    rows = []
    for split in SPLITS:
        for lang, found in results[f"eval-{split}"].data["languages"].items():
            for direction in ("text_to_image", "image_to_text"):
                figure = found[direction]
                recalls = [_share(figure[f"recall_at_{k}"]) for k in (1, 5, 10)]
                sizes = [f"{figure['queries']:,}", f"{figure['candidates']:,}"]
                name = LANGUAGE_NAMES.get(lang, lang)
                rows.append([SPLIT_NAMES[split], name, direction.replace("_", " "), *sizes, *recalls])
    return Table(("pictures", "language", "search", ">queries", ">candidates", ">R@1", ">R@5", ">R@10"), rows)


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


def _charts(metrics: Path) -> tuple[Chart, ...]:
    from clip_edge.distill.metrics import read_metrics

    rows = read_metrics(metrics)

    def line(key: str, name: str) -> Line:
        return Line(name, tuple((row["step"], row[key]) for row in rows if row.get(key) is not None))

    losses = sorted({key for row in rows for key in row if key.endswith("loss")})
    recalls = [line(f"val/text_to_image/recall_at_{k}", f"R@{k}") for k in (1, 5, 10)]
    return (
        Chart("Loss", tuple(line(key, key.replace("_", " ")) for key in losses)),
        Chart("Text to image on val", tuple(recalls), percent=True),
    )


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
