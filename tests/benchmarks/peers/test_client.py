"""A peer's process: real engines on a small model, and peers that refuse, crash, hang or compute something else."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_edge.benchmarks.peers import client
from clip_edge.benchmarks.peers.client import Agreement, PeerProcess, same_embedding
from clip_edge.benchmarks.peers.job import PeerJob
from clip_edge.errors import ArtifactError
from clip_edge.runtime import load

TEXTS = ("a red apple", "a blue car and a dog", "two cats")


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[str, ...]:
    random = np.random.default_rng(0)
    for i in range(3):
        data = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (64 + i, 64 + i, 3), dtype=np.uint8)).save(data, "PNG")
        (tmp_path / f"picture-{i}").write_bytes(data.getvalue())
    return tuple(str(tmp_path / f"picture-{i}") for i in range(3))


def job(bundle: Path, source: str, folder: Path, **changes: object) -> PeerJob:
    (folder / "work").mkdir(exist_ok=True)
    settings = {"module": "open_clip", "variant": "", "tower": "text", "batch": 1, "threads": 1}
    settings |= {"bundle": str(bundle), "source": source, "images": (), "texts": TEXTS, "work": str(folder / "work")}
    return PeerJob(**settings | changes)  # type: ignore[arg-type]


def start(job: PeerJob, folder: Path, **limits: float) -> PeerProcess:
    return PeerProcess("peer", job, Path(sys.executable), folder, **limits)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "tower"), [("open_clip", "image"), ("transformers", "text")])
def test_a_peer_gives_our_embedding_and_its_own_times(
    module: str, tower: str, bundle: Path, tiny_open_clip: Path, pictures: tuple[str, ...], tmp_path: Path
) -> None:
    given = {"images": pictures, "texts": ()} if tower == "image" else {}
    words = job(bundle, f"open_clip:{tiny_open_clip}", tmp_path, module=module, tower=tower, batch=2, **given)
    with start(words, tmp_path) as peer, load(bundle) as model:
        ours = model.encode_images(list(pictures)) if tower == "image" else model.encode_texts(TEXTS)
        assert same_embedding(peer.embeddings(), ours, 0.9999).differ == 0
        timing = peer.query(4)
        assert set(timing.stages_s) == {"preprocess" if tower == "image" else "tokenise", "encode"}
        assert 0 < sum(timing.stages_s.values()) <= timing.seconds
        usage = peer.usage()
        assert usage.peak_rss_bytes > 50e6
        assert 0.1 < usage.cores < 1.1
        assert peer.file_bytes > 10_000
        assert "torch" in peer.versions


def test_a_model_that_it_does_not_know_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as problem:
        start(job(tmp_path, "student:nano-s:random", tmp_path), tmp_path)
    assert problem.value.what == "open_clip has no such model: the bundle was exported from `student:nano-s:random`"


def test_ours_gives_its_stages_and_says_what_it_cannot_load(
    bundle: Path, pictures: tuple[str, ...], tmp_path: Path
) -> None:
    given = {"module": "ours", "tower": "image", "batch": 2, "images": pictures, "texts": ()}
    words = job(bundle, "", tmp_path, variant="onnxruntime fp32", **given)
    with start(words, tmp_path) as ours, load(bundle) as model:
        assert same_embedding(ours.embeddings(), model.encode_images(list(pictures)), 0.999999).differ == 0
        timing = ours.query(4)
        assert set(timing.stages_s) == {"decode", "preprocess", "encode"}
        assert 0 < sum(timing.stages_s.values()) <= timing.seconds
    with pytest.raises(ArtifactError, match="unknown precision: `int8`"):
        start(job(bundle, "", tmp_path, variant="onnxruntime int8", **given), tmp_path)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Another worker than ours: what it does is up to the test."""

    def write(body: str) -> Path:
        (tmp_path / "worker.py").write_text(f"import os, sys, time\n{body}\n")
        monkeypatch.setattr(client, "__file__", str(tmp_path / "client.py"))
        return tmp_path

    return write


READY = 'print(\'{"versions": {}, "file_bytes": 1, "load_s": 0.1}\', flush=True)\n'


def test_a_peer_that_crashes_is_quoted(stand_in: Callable[[str], Path], tmp_path: Path) -> None:
    stand_in("print('one', file=sys.stderr); sys.exit('no such kernel')")
    with pytest.raises(ArtifactError) as problem:
        start(job(tmp_path, "x", tmp_path), tmp_path)
    assert problem.value.what == "`peer` ended with exit code 1: no such kernel"


def test_a_peer_that_dies_between_two_questions_is_quoted(stand_in: Callable[[str], Path], tmp_path: Path) -> None:
    stand_in(READY + "sys.stdin.readline(); os.abort()")
    with start(job(tmp_path, "x", tmp_path), tmp_path) as peer:
        for ask in (lambda: peer.query(1), peer.usage):  # the second finds it gone, and does not wait
            with pytest.raises(ArtifactError) as problem:
                ask()
            assert problem.value.what.startswith("`peer` ended with exit code -6: ")


@pytest.mark.parametrize("body", ["time.sleep(60)", READY + "time.sleep(60)"])
def test_a_peer_that_hangs_is_ended(body: str, stand_in: Callable[[str], Path], tmp_path: Path) -> None:
    stand_in(body)
    with (
        pytest.raises(ArtifactError, match=r"`peer` gave no answer in [\d.]+ s and was ended"),
        start(job(tmp_path, "x", tmp_path), tmp_path, start_limit_s=3.0, answer_limit_s=0.2) as peer,
    ):
        peer.query(1)


def test_another_embedding_is_not_timed() -> None:
    rows = np.eye(4, dtype=np.float32)
    message = "gives another embedding: 4 of 4 below a cosine of 0.99 to ours in fp32, median"
    with pytest.raises(ArtifactError, match=message):
        same_embedding(np.roll(rows, 1, axis=0), rows, 0.99)
    with pytest.raises(ArtifactError, match=message):
        same_embedding(rows * np.float32("nan"), rows, 0.99)
    with pytest.raises(ArtifactError, match=r"embeddings of \(2,\) values instead of \(4,\): another model"):
        same_embedding(rows[:, :2], rows, 0.99)


def test_a_few_hard_rows_may_differ_and_are_counted() -> None:
    rows = np.eye(4, dtype=np.float32)
    found = rows.copy()
    found[3] = [1, 0, 0, 0]
    assert same_embedding(found, rows, 0.99) == Agreement(0.0, 1, 4)
