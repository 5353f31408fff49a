"""Suites: TOML files that say what is measured, so that one command measures it again, here or on another machine."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from clip_edge.benchmarks.peers import PEERS
from clip_edge.benchmarks.plan import Selection
from clip_edge.errors import ConfigError, UsageError, unknown_name
from clip_edge.files import read_bounded
from clip_edge.runtime.backends import BACKENDS
from clip_edge.schema import build

FOLDER = Path(__file__).with_name("suites")
MAX_SUITE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Suite:
    """A summary, and tables `[[rows]]` with the keys of `Selection`; what a table leaves out has its default."""

    summary: str
    rows: tuple[Selection, ...]


def committed() -> dict[str, Path]:
    """The suites that come with clip-edge, by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.toml"))}


def read_suite(name: str) -> Suite:
    """A suite of ours by its name, or a file.

    Raises:
        UsageError: neither.
        ConfigError: the file holds an unknown key, value, backend or peer.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in committed():
            raise unknown_name("suite", name, committed())
        path = committed()[name]
    if not path.is_file():
        raise UsageError(f"no such suite: {path}", hint=f"ours: {', '.join(committed())}")
    try:
        data = tomllib.loads(read_bounded(path, MAX_SUITE_BYTES, error=ConfigError).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"not a TOML file: {problem}", where=path) from problem
    suite = build(Suite, data, where=path)
    if not suite.rows:
        raise ConfigError("a suite needs at least one table [[rows]]", where=path)
    for kind, known, words in (
        ("backend", BACKENDS, [name for table in suite.rows for name in table.backends]),
        ("peer", PEERS, [name for table in suite.rows for name in table.peers]),
    ):
        for word in words:
            if not any(fnmatch(name, word) for name in known):
                raise unknown_name(kind, word, known, error=ConfigError)
    return suite
