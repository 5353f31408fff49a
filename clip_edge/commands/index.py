"""`clip-edge index`: embeddings of your pictures or sentences in one file, to search in."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import DataError, UsageError
from clip_edge.files import human_bytes, read_bounded

if TYPE_CHECKING:
    from clip_edge.bundle import Tower
    from clip_edge.preprocess import Floats
    from clip_edge.runtime import Model

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".ppm", ".tif", ".tiff", ".avif")
MAX_TEXT_BYTES = 1024**3
BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder made by `clip-edge export`")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=Path, metavar="DIR", help="every picture below a folder; its path is its label")
    what.add_argument("--texts", type=Path, metavar="FILE", help="UTF-8, a sentence on each line, which is its label")
    parser.add_argument("--out", type=Path, required=True, metavar="INDEX", help="the file to write")
    parser.add_argument(
        "--store", choices=("float32", "float16", "int8"), default="float32", help="of the vectors (default: float32)"
    )
    parser.add_argument("--precision", metavar="P", help="of the graphs (default: the bundle's first)")
    parser.add_argument("--backend", default="onnxruntime", help="see `clip-edge list backends` (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the backend (default: every physical core)")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    import numpy as np

    from clip_edge.runtime import load
    from clip_edge.runtime.index import write_index

    if args.out.is_dir() or not args.out.parent.is_dir():
        raise UsageError(f"cannot write {args.out}: --out names a file in an existing folder")
    items: list[Path] | list[str] = _pictures(args.images) if args.images else _sentences(args.texts)
    tower: Tower = "image" if args.images else "text"
    kept: list[str] = []
    rows: list[Floats] = []
    with load(args.bundle, args.backend, threads=args.threads, precision=args.precision, towers=[tower]) as model:
        with console.progress(f"embedding {tower}s", total=len(items), unit=f"{tower}s") as meter:
            for start in range(0, len(items), BATCH):
                for label, row in _embed(model, items[start : start + BATCH], console):
                    kept.append(label)
                    rows.append(row)
                meter.advance(len(items[start : start + BATCH]))
        embedding = model.manifest.embedding
    if not rows:
        raise DataError("none of the pictures can be read", where=args.images)
    write_index(args.out, np.stack(rows), kept, embedding.space, args.store)
    size = args.out.stat().st_size
    left_out = len(items) - len(rows)
    console.say(f"{args.out}: {len(rows)} rows of {embedding.dim} floats, {human_bytes(size)}")
    data = {"index": str(args.out), "rows": len(rows), "left_out": left_out, "dim": embedding.dim, "bytes": size}
    return Outcome({**data, "embedding_space": embedding.space, "store": args.store})


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError("no pictures here", where=folder, hint=f"looked for {' '.join(SUFFIXES)}")
    return found


def _sentences(path: Path) -> list[str]:
    text = read_bounded(path, MAX_TEXT_BYTES, error=DataError).decode("utf-8", "replace")
    found = [line.strip() for line in text.split("\n") if line.strip()]
    if not found:
        raise DataError("no sentences here", where=path, hint="write one on each line")
    return found


def _embed(model: Model, batch: list[Path] | list[str], console: Console) -> Iterator[tuple[str, Floats]]:
    """Each label with its row; where a picture cannot be read, the others of its batch are embedded one by one."""
    texts = [item for item in batch if isinstance(item, str)]
    if texts:
        yield from zip(texts, model.encode_texts(texts), strict=True)
        return
    try:
        yield from zip(map(str, batch), model.encode_images(batch), strict=True)
    except DataError:
        for picture in batch:
            try:
                yield str(picture), model.encode_images([picture])[0]
            except DataError as problem:
                console.warn(f"left out: {problem}")
