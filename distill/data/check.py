"""`clip-edge data check`: read everything once, count what is there, and name what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.readers import data_splits, open_dataset
from clip_edge.distill.data.samples import DataSet, Problem
from clip_edge.errors import DataError
from clip_edge.files import sha256_file
from clip_edge.images import open_image

THREADS = 4  # decoding happens outside Python's lock
AHEAD = 64  # samples in flight, which bounds the memory
SIZES_KEPT = 10


@dataclass(frozen=True)
class CaptionStats:
    """The captions of one language."""

    captions: int
    samples: int
    distinct: int
    words_mean: float
    characters_min: int
    characters_mean: float
    characters_max: int


@dataclass
class SplitReport:
    """What is in one split. `decoded` pictures were opened; it is below `samples` when a limit was set."""

    split: str
    samples: int = 0
    decoded: int = 0
    readable: int = 0
    image_bytes: int = 0
    sizes_px: dict[str, int] = field(default_factory=dict)  # the most frequent ones, "96x96" -> pictures
    captions: dict[str, CaptionStats] = field(default_factory=dict)
    classes: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class CheckReport:
    """All splits of a data set."""

    name: str
    splits: list[SplitReport]

    @property
    def problems(self) -> list[tuple[str, Problem]]:
        """(split, problem) in the order found."""
        return [(report.split, problem) for report in self.splits for problem in report.problems]

    def as_dict(self) -> dict[str, Any]:
        """The report as `--json` writes it."""
        kinds = Counter(problem.kind for _, problem in self.problems)
        return {
            "name": self.name,
            "samples": sum(report.samples for report in self.splits),
            "problems_by_kind": dict(sorted(kinds.items())),
            "problems": [{"split": split, **asdict(problem)} for split, problem in self.problems],
            "splits": {report.split: _without_problems(report) for report in self.splits},
        }


def _without_problems(report: SplitReport) -> dict[str, Any]:
    table = asdict(report)
    del table["problems"], table["split"]
    return table


def check_dataset(
    path: Path, *, limit: int | None = None, columns: tuple[str, str] | None = None, console: Console = SILENT
) -> CheckReport:
    """Index every split, read and decode its samples (`limit` per split, spread evenly), and verify hashes.

    Raises:
        DataError: no data set at `path`, or no usable sample in any split.
    """
    reports, name = [], path.stem
    for split in data_splits(path):
        dataset = open_dataset(path, split, columns=columns, allow_empty=True)
        name = dataset.name
        reports.append(_check_split(dataset, path, limit, console))
    report = CheckReport(name, reports)
    if not any(split.readable for split in reports):
        first = next((f": {problem.reason} ({problem.where})" for _, problem in report.problems), "")
        raise DataError(f"the data set is empty: no usable sample{first}", where=path)
    return report


def _check_split(dataset: DataSet, path: Path, limit: int | None, console: Console) -> SplitReport:
    report = SplitReport(dataset.split, samples=len(dataset), classes=len(dataset.classes))
    report.problems += dataset.problems
    report.problems += _wrong_hashes(dataset, path)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)] if count else []
    sizes: Counter[tuple[int, int]] = Counter()
    tally = _Tally()
    with console.progress(f"reading {dataset.split}", count, "samples") as meter:
        for look, problem in _look_at_all(dataset, chosen):
            report.decoded += 1
            meter.advance()
            if problem is not None:
                report.problems.append(problem)
            if look is not None:
                report.readable += 1
                report.image_bytes += look.image_bytes
                sizes[look.size] += 1
                tally.add(look.captions)
    report.sizes_px = {f"{width}x{height}": number for (width, height), number in sizes.most_common(SIZES_KEPT)}
    report.captions = tally.stats()
    return report


def _wrong_hashes(dataset: DataSet, path: Path) -> list[Problem]:
    """Shards of the built-in format whose bytes are not those that were written."""
    if dataset.info is None:
        return []
    return [
        Problem("wrong hash", "", str(path / shard.path), "the file is not the one that dataset.json describes")
        for shard in dataset.info.splits[dataset.split].shards
        if (path / shard.path).is_file() and sha256_file(path / shard.path) != shard.sha256
    ]


@dataclass(frozen=True)
class _Look:
    """What one readable sample adds to the counts."""

    image_bytes: int
    size: tuple[int, int]
    captions: dict[str, tuple[str, ...]]


def _look_at_all(dataset: DataSet, chosen: Sequence[int]) -> Iterator[tuple[_Look | None, Problem | None]]:
    """Every chosen sample in order, a few at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(chosen), AHEAD):
            yield from pool.map(lambda i: _look_at(dataset, i), chosen[start : start + AHEAD])


def _look_at(dataset: DataSet, i: int) -> tuple[_Look | None, Problem | None]:
    """What is there, if the sample can be used, and what is wrong with it or its mask."""
    look, kind = None, "unreadable sample"
    try:
        sample = dataset.sample(i)
        kind = "broken picture"
        size = open_image(sample.image).size
        look, kind = _Look(len(sample.image), size, sample.captions), "broken mask"
        if sample.mask is not None and (found := open_image(sample.mask).size) != size:
            raise DataError(f"the mask is {found[0]}x{found[1]}, its picture {size[0]}x{size[1]}")
    except DataError as problem:
        return look, Problem(kind, dataset.keys[i], dataset.where(i), problem.what)
    return look, None


class _Tally:
    """Caption statistics, one caption at a time."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.lengths: dict[str, list[int]] = {}
        self.words: Counter[str] = Counter()
        self.distinct: dict[str, set[int]] = {}

    def add(self, captions: dict[str, tuple[str, ...]]) -> None:
        for lang, texts in captions.items():
            self.samples[lang] += 1
            for text in texts:
                self.lengths.setdefault(lang, []).append(len(text))
                self.words[lang] += len(text.split())
                self.distinct.setdefault(lang, set()).add(hash(text))  # a hash, since captions may be gigabytes

    def stats(self) -> dict[str, CaptionStats]:
        return {
            lang: CaptionStats(
                captions=len(lengths),
                samples=self.samples[lang],
                distinct=len(self.distinct[lang]),
                words_mean=round(self.words[lang] / len(lengths), 2),
                characters_min=min(lengths),
                characters_mean=round(sum(lengths) / len(lengths), 2),
                characters_max=max(lengths),
            )
            for lang, lengths in sorted(self.lengths.items())
        }
