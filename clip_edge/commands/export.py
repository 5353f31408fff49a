"""`clip-edge export`: a student becomes a bundle whose numbers were compared with PyTorch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from clip_edge.cli import Outcome
from clip_edge.commands import verify
from clip_edge.console import Console
from clip_edge.files import human_bytes, refuse_existing
from clip_edge.schema import as_dict

if TYPE_CHECKING:
    from clip_edge.bundle import Bundle, Precision
    from clip_edge.runtime.verify import Verification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a student folder or run, open_clip:NAME:TAG, or hf:FOLDER")
    parser.add_argument("--target", action="append", required=True, help="see `clip-edge list targets`; repeatable")
    parser.add_argument("--precision", action="append", help="of the graphs; repeatable (default: fp32)")
    parser.add_argument("--calibration", type=Path, metavar="DATA", help="pictures and sentences to quantise by")
    parser.add_argument(
        "--compute-capability",
        action="append",
        metavar="SM",
        help="GPU for `trt-rtx` engines, such as sm89; repeatable",
    )
    parser.add_argument(
        "--machine",
        choices=("any", "auto", "x86-vnni", "x86", "arm"),
        default="any",
        help="for int8 of `onnx`: right everywhere (%(default)s), or finer for one kind of processor; auto: this one",
    )
    parser.add_argument(
        "--ios", type=int, choices=(16, 17, 18), help="oldest iOS for Core ML packages (default: by precision)"
    )
    parser.add_argument(
        "--segment",
        action="store_true",
        help="add the graphs that `run --segment` needs (students of `sam-clip` have them without)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to make")
    parser.add_argument("--dry-run", action="store_true", help="check the options and the student, write nothing")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.export.targets import file_name, find_target, refuse_unmeasured

    precisions = args.precision or ["fp32"]
    wanted = list(dict.fromkeys((name, precision) for name in args.target for precision in precisions))
    targets = [(find_target(name, precision), precision) for name, precision in wanted]
    for name, precision in wanted if args.calibration is None else ():
        refuse_unmeasured(name, cast("Precision", precision))
    refuse_existing(args.out)
    if args.dry_run:
        from clip_edge.bundle import TOWERS
        from clip_edge.export.sources import load_source

        name = load_source(args.model).name
        files = [file_name(target, tower, precision) for target, precision in targets for tower in TOWERS]
        console.out(f"would export {name} to {args.out}: {', '.join(files)}")
        return Outcome({"model": args.model, "name": name, "bundle": str(args.out), "graphs": files})

    from clip_edge.export.exporter import Request, export
    from clip_edge.machine import this_machine_class

    started_s = time.monotonic()
    machine = this_machine_class() if args.machine == "auto" else args.machine
    requests = [Request(name, cast("Precision", precision), machine) for name, precision in wanted]
    bundle, proofs = export(
        args.model,
        requests,
        args.out,
        calibration=args.calibration,
        capabilities=args.compute_capability or (),
        ios=args.ios,
        segment=args.segment,
        console=console,
    )
    for proof in proofs:
        verify.show(proof, console)
    return _finished(bundle, proofs, time.monotonic() - started_s, console)


def _finished(bundle: Bundle, proofs: list[Verification], elapsed_s: float, console: Console) -> Outcome:
    manifest = bundle.manifest
    size_bytes = sum(entry.bytes for entry in manifest.files.values())
    console.say(f"wrote {bundle.folder} ({human_bytes(size_bytes)}) in {elapsed_s:.1f} s")
    if manifest.source.provenance.get("weights") == "random":
        console.warn("the weights are random: measure speed and size with this bundle, and nothing else")
    if manifest.research_only:
        names = ", ".join(dict.fromkeys(licence.name for licence in manifest.licences if licence.research_only))
        console.warn(f"the weights are for research only: {names}")
    return Outcome(
        {
            "bundle": str(bundle.folder),
            "bytes": size_bytes,
            "elapsed_s": elapsed_s,
            "proofs": [as_dict(proof) for proof in proofs],
            "manifest": as_dict(manifest),
        }
    )
