"""`clip-edge inspect`: what a data set, student, run, bundle or report is, and whether it is whole."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ExitCode

if TYPE_CHECKING:
    from clip_edge.inspection import Inspection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder, a report.json, open_clip:NAME:TAG, or hf:FOLDER")
    parser.add_argument("--quantization", action="store_true", help="each layer of a bundle's lower precisions")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    if args.quantization:
        return _quantization(Path(args.path), console)
    from clip_edge.inspection import inspect, size_words
    from clip_edge.schema import as_dict

    path = Path(args.path)
    found = _model(args.path) if ":" in args.path and not path.exists() else inspect(path)
    rows = [(name.replace("_", " "), size_words(name, value)) for name, value in found.facts.items()]
    rows.append(("licences", "\n".join(found.licences) or "–"))
    if found.research_only:
        rows.append(("use", "RESEARCH ONLY"))
    console.table(("", ""), rows, title=f"{found.kind}: {found.path}")
    for problem in found.problems:
        console.warn(problem)
    return Outcome(as_dict(found), ExitCode.NO if found.problems else ExitCode.OK)


def _quantization(path: Path, console: Console) -> Outcome:
    """One table for each artefact in a lower precision: its layers, the worst first."""
    from clip_edge.bundle import Bundle
    from clip_edge.errors import UsageError
    from clip_edge.files import human_bytes
    from clip_edge.quantization import read_reports, worst_first
    from clip_edge.schema import as_dict

    reports = read_reports(Bundle.open(path))
    if not reports:
        raise UsageError(
            "no graph of this bundle has a lower precision",
            where=path,
            hint="export it with --precision int8 --calibration DATA",
        )
    data = {}
    for name, report in reports.items():
        layers = worst_first(report)
        rows = [
            (
                layer.name,
                layer.op,
                layer.precision,
                "–" if layer.snr_db is None else f"{layer.snr_db:.1f} dB",
                human_bytes(layer.weight_bytes),
                layer.reason,
            )
            for layer in layers
        ]
        total = human_bytes(sum(layer.weight_bytes for layer in layers))
        title = f"{name}: cosine to fp32 at least {report.min_cosine:.4f}, weights {total}"
        console.table(("layer", "operation", "precision", ">signal/noise", ">weights", "why"), rows, title=title)
        measured = f"{report.calibration_images} pictures, {report.calibration_texts} sentences to measure on"
        console.out(f"{report.scheme} (--machine {report.machine}); {measured}")
        data[name] = {**as_dict(report), "layers": [as_dict(layer) for layer in layers]}
    return Outcome({"bundle": str(path), "reports": data})


def _model(source: str) -> Inspection:
    """A model of another library, loaded: what its files say is worth nothing before they were seen to fit."""
    from clip_edge.distill.models.pretrained import is_pretrained, load_pretrained
    from clip_edge.inspection import Inspection, inspect, licence_words
    from clip_edge.schema import as_dict

    if not is_pretrained(source):
        return inspect(Path(source))
    loaded = load_pretrained(source)
    scale, bias = loaded.logits()
    text = loaded.tokenizer.spec
    facts = {
        "name": loaded.name,
        "weights": "RANDOM" if loaded.random else "trained",
        "image_parameters": sum(value.numel() for value in loaded.image.parameters()),
        "text_parameters": sum(value.numel() for value in loaded.text.parameters()),
        "image_px": loaded.preprocess.size,
        "resize": loaded.preprocess.resize,
        "interpolation": loaded.preprocess.interpolation,
        "mean": list(loaded.preprocess.mean),
        "std": list(loaded.preprocess.std),
        "context_length": text.context_length,
        "vocabulary": text.vocab_size,
        "text_cleaning": text.clean,
        "text_tower": None if loaded.facts is None else as_dict(loaded.facts),
        "logit_scale": scale,
        "logit_bias": bias,
    }
    licences = tuple(licence_words(as_dict(licence)) for licence in loaded.licences)
    return Inspection("model", source, facts, licences, loaded.research_only, ())
