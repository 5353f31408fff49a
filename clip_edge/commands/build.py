"""`clip-edge build`: the TensorRT engines of a bundle, made and checked on the machine that will run them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_edge.cli import Outcome
from clip_edge.commands import verify as verify_command
from clip_edge.console import Console
from clip_edge.errors import ExitCode, unknown_name
from clip_edge.files import human_bytes
from clip_edge.schema import as_dict

if TYPE_CHECKING:
    from clip_edge.runtime.tensorrt.build import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="made with --target trt or trt-rtx")
    parser.add_argument("--backend", default="tensorrt", help="tensorrt or tensorrt-rtx (default: %(default)s)")
    parser.add_argument("--precision", help="only this one (default: every one in the bundle)")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default: %(default)s)")
    parser.add_argument(
        "--compute-capability",
        action="append",
        metavar="SM",
        help="build for this GPU (tensorrt-rtx only), such as sm89",
    )
    parser.add_argument("--workspace", type=int, metavar="MIB", help="memory that the builder may try kernels with")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of engines (default: the user's cache)")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.runtime.tensorrt.build import build_bundle
    from clip_edge.runtime.tensorrt.cache import VARIABLE
    from clip_edge.runtime.tensorrt.library import FLAVOURS

    if args.backend not in FLAVOURS:
        raise unknown_name("backend that builds engines", args.backend, FLAVOURS)
    named: list[str] = args.compute_capability or []
    results = build_bundle(
        args.bundle,
        args.backend,
        precision=args.precision,
        device=args.device,
        workspace_bytes=None if args.workspace is None else args.workspace * 1024**2,
        engines=args.out,
        named=named,
        console=console,
    )
    show(results, console)
    if args.out is not None:
        console.say(f"set {VARIABLE}={args.out} where the bundle is run, so that the engines are found")
    failed = [result for result in results if result.problem is not None]
    data: dict[str, Any] = {"engines": [as_dict(result) for result in results], "verification": None}
    if failed:
        return Outcome(data, ExitCode.NO)
    if named:
        console.say("the engines were not run: that takes the GPUs they were built for")
        return Outcome(data)
    return _verified(args, data, console)


def show(results: Sequence[Result], console: Console) -> None:
    """The engines as a table, and what is wrong with them in words."""
    rows: list[list[object]] = [
        [
            result.graph,
            result.capability,
            f"{result.build_s:.1f} s" if result.built else "kept",
            human_bytes(result.engine_bytes),
            ", ".join(f"{count} {precision}" for precision, count in result.layers.items()),
            _checked(result),
        ]
        for result in results
    ]
    console.table(["graph", "GPU", ">built in", ">size", "products", "layers checked"], rows)
    for result in results:
        if result.problem is not None:
            console.warn(f"{result.graph}: {result.problem}; the engine was not kept")


def _checked(result: Result) -> str:
    found = result.judgement
    if found is None:
        return ""
    return f"{found.kept} as asked, {len(found.fallen)} higher, {len(found.unseen)} fused"


def _verified(args: argparse.Namespace, data: dict[str, Any], console: Console) -> Outcome:
    from clip_edge.runtime.verify import verify

    proof = verify(
        args.bundle,
        args.backend,
        device=args.device,
        engines=args.out,
        precision=args.precision,
        console=console,
    )
    verify_command.show(proof, console)
    data["verification"] = {**as_dict(proof), "passed": proof.passed, "problems": proof.problems}
    return Outcome(data, ExitCode.OK if proof.passed else ExitCode.NO)
