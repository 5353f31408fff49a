"""`clip-edge reinforce`: store what teachers and a captioner know about every picture, beside the pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.console import Console
from clip_edge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from clip_edge.distill.reinforce.augment import ReplaySpec
    from clip_edge.distill.reinforce.engine import Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `clip-edge reinforce`."""
    parser.add_argument("data", metavar="DATA", type=Path, help="a data set: shards, CSV or TSV, class folders")
    parser.add_argument(
        "--teacher",
        metavar="SPEC",
        action="append",
        default=[],
        help="student folder, open_clip:NAME:TAG-or-file, open_clip:FOLDER or hf:FOLDER; repeat for an ensemble",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where sidecars go (default: beside the shards)")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--augmentations", metavar="A", type=int, default=5, help="per picture (default: 5)")
    parser.add_argument(
        "--captions", metavar="N", type=int, default=2, help="synthetic ones per picture and language (default: 2)"
    )
    parser.add_argument(
        "--captioner", metavar="SPEC", help="rewrite (built-in data), file:F.jsonl|F.tsv, open_clip:coca_..., hf:FOLDER"
    )
    parser.add_argument("--langs", metavar="L,L", help="languages of true captions (default: all)")
    parser.add_argument("--dtype", choices=("bf16", "int8"), default="bf16", help="of embeddings (default: bf16)")
    parser.add_argument(
        "--crop-scale",
        metavar="LOW,HIGH",
        default="0.08,1",
        help="share of a picture that a crop keeps; 1,1 crops nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--randaugment", metavar="N", type=int, default=2, help="RandAugment operations per augmentation (default: 2)"
    )
    parser.add_argument("--flip", metavar="P", type=float, default=0.0, help="probability of a flip (default: 0)")
    parser.add_argument("--seed", metavar="S", type=int, default=0)
    parser.add_argument("--batch-size", metavar="B", type=int, default=64, help="pictures per forward (default: 64)")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="ray: a task per shard on a cluster"
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="default: RAY_ADDRESS, or a cluster on this machine")
    parser.add_argument("--device", help="cpu or cuda (default: cuda when there is one)")
    parser.add_argument(
        "--import-datacompdr", metavar="DIR", type=Path, help="read the knowledge from DataCompDR shards"
    )
    parser.add_argument(
        "--import-teacher",
        metavar="NAME:DIM:SCALE",
        action="append",
        help="what they hold (default: the published ones)",
    )
    parser.add_argument("--verify", action="store_true", help="make nothing: embed a sample again and compare")
    parser.add_argument("--dry-run", action="store_true", help="say how large and how long, and write nothing")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    """Make what is missing, or say what it would cost, or verify what is there."""
    if args.verify:
        return _verify(args, console)
    if args.import_datacompdr:
        return _import(args, console)
    if not args.teacher:
        raise UsageError("no teacher", hint="name at least one with --teacher SPEC")
    from clip_edge.distill.reinforce import engine
    from clip_edge.files import human_bytes

    console.say("loading the teachers")
    options = _options(args)
    work = engine.prepare(options)
    expected = engine.expect(work)
    console.say(
        f"{expected['samples']} pictures in {expected['shards']} shards -> {work.folder}: about "
        f"{human_bytes(expected['expected_bytes'])} ({expected['bytes_per_sample']} B each), {expected['expected_s']} s"
    )
    if args.dry_run:
        console.out(f"{expected['expected_bytes']} bytes, {expected['expected_s']} s")
        return Outcome({"dry_run": True, **expected})
    if args.engine == "ray":
        from clip_edge.distill.reinforce.ray_engine import reinforce_on_ray

        manifest = reinforce_on_ray(options, work, address=args.ray_address, console=console)
    else:
        manifest = engine.reinforce(work, console)
    data = engine.summary(work.folder, manifest)
    _tell(data, console)
    return Outcome(data)


def _options(args: argparse.Namespace) -> Options:
    from clip_edge.distill.reinforce.engine import Options

    for name, least, most in (("augmentations", 1, 1000), ("captions", 0, 100), ("batch_size", 1, 65536)):
        if not least <= getattr(args, name) <= most:
            raise UsageError(f"--{name.replace('_', '-')} must lie in {least}..{most}; found {getattr(args, name)}")
    return Options(
        data=args.data,
        teachers=tuple(args.teacher),
        out=args.out,
        split=args.split,
        augmentations=args.augmentations,
        captions=args.captions,
        captioner=args.captioner,
        languages=tuple(args.langs.split(",")) if args.langs else (),
        dtype=args.dtype,
        seed=args.seed,
        batch_size=args.batch_size,
        device=args.device,
        replay=_replay(args),
    )


def _replay(args: argparse.Namespace) -> ReplaySpec:
    from clip_edge.distill.reinforce.augment import ReplaySpec

    try:
        low, high = (float(number) for number in args.crop_scale.split(","))
    except ValueError as problem:
        raise UsageError(f"expected --crop-scale LOW,HIGH, as in 0.08,1; found {args.crop_scale}") from problem
    try:
        return ReplaySpec(crop_scale=(low, high), ops=args.randaugment, flip=args.flip)
    except ValueError as problem:
        raise UsageError(f"no such augmentations: {problem}") from problem


def _tell(data: dict[str, Any], console: Console) -> None:
    console.out(f"{data['folder']}: {data['samples']} pictures, {data['size']}, {data['bytes_per_sample']} B each")
    skipped = data["skipped"]
    if skipped:
        named = ", ".join(f"{one['key']} ({one['reason']})" for one in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        console.warn(f"{len(skipped)} pictures cannot be read and stay out of training: {named}{more}")


def _import(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.distill.data.readers import open_dataset
    from clip_edge.distill.reinforce.datacompdr import PUBLISHED, import_datacompdr
    from clip_edge.distill.reinforce.engine import output_folder, summary

    dataset = open_dataset(args.data, args.split)
    folder = output_folder(args.out, dataset)
    teachers = args.import_teacher or PUBLISHED
    manifest = import_datacompdr(
        dataset, args.import_datacompdr, folder, teachers=teachers, dtype=args.dtype, console=console
    )
    data = summary(folder, manifest)
    _tell(data, console)
    return Outcome(data)


def _verify(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.distill.data.readers import open_dataset
    from clip_edge.distill.reinforce.verify import verify

    dataset = open_dataset(args.data, args.split)
    folder = args.out or Path(dataset.where(0)).parent
    results = verify(dataset, folder, teachers=args.teacher, seed=args.seed, device=args.device, console=console)
    console.table(
        ("teacher", ">pictures", ">captions", ">image cosine", ">text cosine", ">at least", "passed"),
        [
            (
                one.teacher,
                one.images,
                one.texts,
                f"{one.min_image_cosine:.6f}",
                f"{one.min_text_cosine:.6f}",
                one.tolerance,
                "yes" if one.passed else "NO",
            )
            for one in results
        ],
    )
    passed = all(one.passed for one in results)
    rows = [{**vars(one), "passed": one.passed} for one in results]
    return Outcome({"passed": passed, "teachers": rows}, ExitCode.OK if passed else ExitCode.NO)
