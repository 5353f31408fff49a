"""The part of `clip-edge run` that outlines: words, points and boxes to masks, and a picture that shows them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import UsageError

if TYPE_CHECKING:
    from clip_edge.runtime import Model, View
    from clip_edge.segment import Labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outlines", "of a bundle that was exported with --segment or from `sam-clip`")
    group.add_argument("--segment", action="store_true", help="find the pixels of each --text")
    group.add_argument(
        "--background",
        action="append",
        metavar="T",
        help="words for what no --text names; repeatable (default: `background` and the like; '' for none)",
    )
    group.add_argument("--refine", action="store_true", help="take the edges from the mask decoder")
    group.add_argument("--point", action="append", metavar="X,Y", help="outline what is at this pixel; repeatable")
    group.add_argument("--box", metavar="X0,Y0,X1,Y1", help="outline what is in this box of pixels")
    group.add_argument("--out", type=Path, metavar="F.png", help="picture to write: the mask over the picture")


def wanted(args: argparse.Namespace) -> bool:
    """Whether masks are asked for.

    Raises:
        UsageError: options that do not go together.
    """
    prompted = bool(args.point or args.box)
    if args.segment and prompted:
        raise UsageError("--segment asks by words, --point and --box by place", hint="run it once for each")
    if not (args.segment or prompted):
        given = [f"--{name}" for name in ("out", "background", "refine") if getattr(args, name)]
        if given:
            raise UsageError(f"{given[0]} belongs to --segment, --point or --box", hint="add one of them")
        if not args.text:
            raise UsageError("what to look for is missing", hint="add --text, or --point or --box for an outline")
        return False
    if len(args.image) != 1:
        raise UsageError(f"one --image expected for outlines; found {len(args.image)}")
    if args.segment and not args.text:
        raise UsageError("--segment needs words to look for", hint='add --text "a red apple"')
    if prompted and args.text:
        raise UsageError("--point and --box take no --text", hint="use --segment with --text")
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise UsageError(f"--out must end with .png; found `{args.out}`")
    return True


def run(args: argparse.Namespace, model: Model, console: Console) -> Outcome:
    """Outline by words or by prompts, say what was found, and write the overlay."""
    (image,) = args.image
    prompt_points = [_numbers("--point", word, 2) for word in args.point or ()]
    box = _numbers("--box", args.box, 4) if args.box else None
    view = model.look(image)
    stages_s = model.timings
    if args.segment:
        labels, names, found = _by_words(args, model, view)
    else:
        labels, names, found = _by_prompt(model, view, prompt_points, box)
    console.table(
        [">share", "box", "what"],
        [[f"{item['share']:.1%}", item["box_words"], item["name"]] for item in found],
        title=str(image),
    )
    for item in found:
        del item["box_words"]
    if args.out is not None:
        _write(args.out, image, labels, names)
        console.say(f"wrote {args.out}")
    data: dict[str, Any] = {"bundle": str(args.bundle), "backend": args.backend, "image": str(image)}
    data |= {"width": view.frame.width, "height": view.frame.height, "found": found, "stages_s": stages_s}
    data["out"] = None if args.out is None else str(args.out)
    return Outcome(data)


def _by_words(args: argparse.Namespace, model: Model, view: View) -> tuple[Labels, list[str], list[dict[str, Any]]]:
    from clip_edge.runtime.segmentation import BACKGROUND

    texts = list(dict.fromkeys(args.text))
    background = BACKGROUND if args.background is None else [word for word in args.background if word]
    result = model.segment(view, texts, args.template or ["{}"], background=background, refined=args.refine)
    found = []
    for index, text in enumerate(texts):
        peak = {"max_cosine": float(result.scores[index].max())}
        found.append(_facts(text, result.labels, index) | peak)
    return result.labels, texts, found


def _by_prompt(
    model: Model, view: View, points: list[tuple[float, ...]], box: tuple[float, ...] | None
) -> tuple[Labels, list[str], list[dict[str, Any]]]:
    import numpy as np

    from clip_edge.runtime import Prompt

    places = tuple((x, y) for x, y in points)
    corners = None if box is None else (box[0], box[1], box[2], box[3])
    (outline,) = model.masks(view, [Prompt(points=places, box=corners)])
    labels = np.where(outline.mask, 0, -1).astype(np.int16)
    words = [f"point {x:g},{y:g}" for x, y in places]
    words += [] if corners is None else ["box " + ",".join(f"{value:g}" for value in corners)]
    name = " and ".join(words)
    return labels, [name], [_facts(name, labels, 0) | {"expected_iou": float(outline.iou.max())}]


def _facts(name: str, labels: Labels, index: int) -> dict[str, Any]:
    """The share of the picture and the box around the pixels of one label; no box where there are none."""
    mask = labels == index
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if len(rows) else None
    words = "not found" if box is None else ",".join(map(str, box))
    return {"name": name, "share": float(mask.mean()), "pixels": int(mask.sum()), "box": box, "box_words": words}


def _numbers(option: str, word: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in word.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(abs(value) < 1e9 for value in values):  # also false for NaN
        shape = "X,Y" if count == 2 else "X0,Y0,X1,Y1"
        raise UsageError(f"{option} must be {shape} in pixels; found `{word}`")
    return values


def _write(out: Path, image: Path, labels: Labels, names: list[str]) -> None:
    import io

    from clip_edge.files import write_file
    from clip_edge.images import open_image
    from clip_edge.overlay import overlay

    buffer = io.BytesIO()
    overlay(open_image(image), labels, names).save(buffer, "PNG")
    write_file(out, buffer.getvalue())
