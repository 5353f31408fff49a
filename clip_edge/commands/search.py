"""`clip-edge search`: the stored vectors nearest to your sentences or pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import UsageError

if TYPE_CHECKING:
    from clip_edge.bundle import Tower


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", type=Path, metavar="INDEX", help="a file made by `clip-edge index`")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle that it was made with")
    parser.add_argument("--text", nargs="+", action="extend", default=[], metavar="T", help="sentences to search for")
    parser.add_argument("--image", nargs="+", action="extend", default=[], type=Path, metavar="F", help="pictures")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="the nearest so many (default: %(default)s)")
    parser.add_argument("--precision", metavar="P", help="of the graphs (default: the bundle's first)")
    parser.add_argument("--backend", default="onnxruntime", help="see `clip-edge list backends` (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the backend (default: every physical core)")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    import numpy as np

    from clip_edge.runtime import load
    from clip_edge.runtime.index import Index

    if not args.text and not args.image:
        raise UsageError("nothing to search for: --text or --image is missing")
    if args.top < 1:
        raise UsageError(f"--top must be at least 1; found {args.top}")
    towers: list[Tower] = [*(["text"] if args.text else []), *(["image"] if args.image else [])]  # type: ignore[list-item]
    with load(args.bundle, args.backend, threads=args.threads, precision=args.precision, towers=towers) as model:
        index = Index.open(args.index, space=model.manifest.embedding.space)
        parts = [model.encode_texts(args.text)] if args.text else []
        parts += [model.encode_images(args.image)] if args.image else []
    names = [*args.text, *map(str, args.image)]
    answers: list[dict[str, Any]] = []
    for name, hits in zip(names, index.search(np.concatenate(parts), args.top), strict=True):
        answers.append({"query": name, "hits": [{"row": h.row, "score": h.score, "label": h.label} for h in hits]})
        console.table([">score", "label"], [[f"{hit.score:.4f}", hit.label] for hit in hits], title=name)
    return Outcome({"index": str(args.index), "rows": index.count, "queries": answers})
