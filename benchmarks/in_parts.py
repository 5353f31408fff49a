"""A report that takes longer than the machine can be kept idle: `python -m clip_edge.benchmarks.in_parts`.

    … in_parts BUNDLE… --parts DIR --minutes 9 --out DIR -- --batch 1,8 --threads 1,2 --budget 3

Every bundle is a part of its own, measured by `clip-edge bench` with the options after `--`. Parts that are there are
not measured again, and none is begun after `--minutes`: call it until all are there. What is there is put together.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from clip_edge.benchmarks.collect import merged


def measure_parts(bundles: Sequence[Path], parts: Path, options: Sequence[str], until_s: float) -> list[Path]:
    """The parts that are there in the end, in the order of the bundles; `until_s` is of `time.monotonic`."""
    parts.mkdir(parents=True, exist_ok=True)
    for bundle in bundles:
        part = parts / bundle.name
        if part.exists() or time.monotonic() > until_s:
            continue
        words = [sys.executable, "-m", "clip_edge.cli", "bench", str(bundle), *options, "--out", str(part), "-q"]
        done = subprocess.run(words, check=False)
        if done.returncode != 0:
            sys.stderr.write(f"{bundle.name}: ended with exit code {done.returncode}\n")
            shutil.rmtree(part, ignore_errors=True)
    return [parts / bundle.name for bundle in bundles if (parts / bundle.name).exists()]


def main() -> None:
    from clip_edge.commands.bench import write_reports

    own, options = sys.argv[1:], list[str]()
    if "--" in own:
        at = own.index("--")
        own, options = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(own)
    found = measure_parts(args.bundles, args.parts, options, time.monotonic() + 60 * args.minutes)
    sys.stdout.write(f"{len(found)} of {len(args.bundles)} parts\n")
    if found:
        shutil.rmtree(args.out, ignore_errors=True)
        write_reports(merged(found), args.out)


if __name__ == "__main__":
    main()
