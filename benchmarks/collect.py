"""Reports of one machine as one: `python -m clip_edge.benchmarks.collect REPORT… --out DIR`.

What takes hours in one go can be measured in parts. Only parts that were taken alike are put together; rows of two
parts were not measured side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clip_edge.benchmarks.compare import refuse_unlike
from clip_edge.benchmarks.report import Report, Row, read_report
from clip_edge.errors import UsageError


def merged(paths: Sequence[Path]) -> Report:
    """One report of the rows of all; a row that several have is taken from the last.

    Raises:
        UsageError: nothing given, or parts of unlike machines, settings or bundles.
        ArtifactError: a file is no report.
    """
    if not paths:
        raise UsageError("no reports to put together")
    parts = [read_report(path) for path in paths]
    first = parts[0]
    rows: dict[tuple[str, ...], Row] = {}
    bundles: dict[str, str] = {}
    for path, part in zip(paths, parts, strict=True):
        refuse_unlike(part, first.settings, first.environment, old_path=path)
        for name, sha256 in part.bundles.items():
            if bundles.setdefault(name, sha256) != sha256:
                what = f"two different bundles are called `{name}`"
                raise UsageError(what, where=path, hint="measure them in one run, which names them by folder")
        rows |= {row.key: row for row in part.results}
    loads = {part.settings.reference for part in parts}
    return replace(
        first,
        settings=replace(first.settings, reference=loads.pop() if len(loads) == 1 else ""),
        bundles=bundles,
        results=tuple(rows.values()),
        warnings=tuple(dict.fromkeys(warning for part in parts for warning in part.warnings)),
        failures=tuple(dict.fromkeys(failure for part in parts for failure in part.failures)),
        devices={name: device for part in parts for name, device in part.devices.items()},
        ceilings=tuple({(one.kind, one.threads): one for part in parts for one in part.ceilings}.values()),
        compare=(),
    )


def main() -> None:
    from clip_edge.commands.bench import write_reports

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_reports(merged(args.reports), args.out)


if __name__ == "__main__":
    main()
