"""The peers' environments: pinned, isolated, made by uv, and refused in words where they cannot be made."""

import re
from pathlib import Path

import pytest

from clip_edge.benchmarks.peers import PEERS, environments
from clip_edge.benchmarks.peers.environments import cache_folder, python_of
from clip_edge.errors import UnavailableError

FOLDER = Path(environments.__file__).parent


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.fixed is None])
def test_every_peer_has_its_file_and_its_pinned_list(name: str) -> None:
    module = PEERS[name].module
    assert "def open_peer(job: PeerJob) -> Opened:" in (FOLDER / f"{module}.py").read_text()
    lines = (FOLDER / f"{module}.txt").read_text().splitlines()
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ; .+)?", line) for line in lines)


def test_an_environment_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[tuple[str, ...]] = []

    def uv(name: str, *words: str) -> None:
        made.append(words)
        if words[0] == "venv":
            (Path(words[-1]) / "bin").mkdir(parents=True)
            (Path(words[-1]) / "bin" / "python").touch()

    monkeypatch.setattr(environments, "_uv", uv)
    python = python_of("mnn")
    assert python.is_relative_to(cache_folder())
    assert cache_folder() == tmp_path / "clip-edge" / "peers"
    assert [words[0] for words in made] == ["venv", "pip"]
    assert python_of("mnn") == python
    assert len(made) == 2


def test_a_list_that_cannot_be_installed_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    with pytest.raises(UnavailableError, match="the environment of `mnn` cannot be made") as problem:
        python_of("mnn")
    assert problem.value.exit_code == 3
    assert list(cache_folder().iterdir()) == []


def test_without_uv_the_next_action_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environments.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(environments.shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match="peers need `uv`") as problem:
        python_of("mnn")
    assert problem.value.hint == "pip install uv"
