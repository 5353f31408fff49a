"""Suites: ours are right, and what is wrong in another is named."""

from pathlib import Path

import pytest

from clip_edge.benchmarks.suites import committed, read_suite
from clip_edge.errors import ConfigError, UsageError


@pytest.mark.parametrize("name", committed())
def test_ours_are_read(name: str) -> None:
    suite = read_suite(name)
    assert suite.summary
    assert suite.rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summary = 'x'\nrows = []", "a suite needs at least one table [[rows]]"),
        ("summary = 'x'\n[[rows]]\nbatch = [1]", "unknown key: `rows[0].batch` (did you mean `rows[0].batches`?)"),
        ("summary = 'x'\n[[rows]]\nbackends = ['onnx']", "unknown backend: `onnx`"),
        ("summary = 'x'\n[[rows]]\npeers = ['openvin']", "unknown peer: `openvin`"),
        ("summary = 'x'\n[[rows]]\nthreads = [0]", "`rows[0]`: `batches` and `threads` must be numbers from 1 to 4096"),
        ("summary = 'x'\n[[rows]]\nsoak_s = 0", "`rows[0]`: `budget_s` and `soak_s` must be at least 0.1 seconds"),
        ("summary =", "not a TOML file"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "suite.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as problem:
        read_suite(str(file))
    assert message in str(problem.value)
    assert problem.value.exit_code == 2


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown suite: `quik`"):
        read_suite("quik")
    with pytest.raises(UsageError, match="no such suite"):
        read_suite(str(tmp_path / "none.toml"))
