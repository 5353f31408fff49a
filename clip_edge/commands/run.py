"""`clip-edge run`: zero-shot scores of your pictures against your sentences, or where in a picture they are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.commands import segment_run
from clip_edge.console import Console
from clip_edge.errors import DataError, ExitCode, UsageError

if TYPE_CHECKING:
    from clip_edge.preprocess import Floats
    from clip_edge.runtime import Model

Result = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder made by `clip-edge export`")
    parser.add_argument("--image", type=Path, nargs="+", action="extend", required=True, metavar="F", help="pictures")
    parser.add_argument("--text", nargs="+", action="extend", default=[], metavar="T", help="sentences or labels")
    parser.add_argument(
        "--template",
        action="append",
        default=[],
        metavar="T",
        help="sentence with {} for each --text, such as `a picture of {}`; the mean of several is used",
    )
    parser.add_argument("--top", type=int, metavar="N", help="show only the N best sentences of each picture")
    parser.add_argument("--backend", default="onnxruntime", help="see `clip-edge list backends` (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the backend (default: every physical core)")
    segment_run.add_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.runtime import load

    if args.top is not None and args.top < 1:
        raise UsageError(f"--top must be at least 1; found {args.top}")
    if segment_run.wanted(args):
        with load(args.bundle, args.backend, threads=args.threads, towers=["text"] if args.segment else []) as model:
            return segment_run.run(args, model, console)
    texts = list(dict.fromkeys(args.text))
    with load(args.bundle, args.backend, threads=args.threads) as model:
        text_embeds = model.encode_labels(texts, args.template or ["{}"])
        results = [_score(model, image, texts, text_embeds, args.top) for image in args.image]
    for result in results:
        _show(result, console)
    failed = [result for result in results if "error" in result]
    if failed:
        console.warn(f"{len(failed)} of {len(results)} pictures could not be read")
    data = {"bundle": str(args.bundle), "backend": args.backend, "texts": texts, "images": results}
    return Outcome(data, ExitCode.USAGE if failed else ExitCode.OK)


def _score(model: Model, image: Path, texts: list[str], text_embeds: Floats, top: int | None) -> Result:
    """The scores of one picture, best first, or why it could not be read: the others are still scored."""
    try:
        image_embeds = model.encode_images([image])  # (1, D)
    except DataError as problem:
        return {"image": str(image), "error": problem.as_dict(), "message": str(problem)}
    stages_s = model.timings
    cosines = (image_embeds @ text_embeds.T)[0]  # (1, D) @ (D, T) -> (T,)
    shares = model.probabilities(image_embeds, text_embeds)[0]
    order = sorted(range(len(texts)), key=lambda i: (-cosines[i], i))[:top]
    scores = [{"text": texts[i], "probability": float(shares[i]), "cosine": float(cosines[i])} for i in order]
    return {"image": str(image), "scores": scores, "stages_s": stages_s}


def _show(result: Result, console: Console) -> None:
    if "error" in result:
        console.warn(result["message"])
        return
    rows = [[f"{s['probability']:.1%}", f"{s['cosine']:.4f}", s["text"]] for s in result["scores"]]
    console.table([">probability", ">cosine", "text"], rows, title=result["image"])
