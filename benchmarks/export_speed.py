"""Our quickest graphs on the CPU beside the plain export and OpenVINO, in turns, in one run.

    python -m clip_edge.benchmarks.export_speed BUNDLE... --out export_speed.json --page export-speed.md

For each bundle that was exported from `open_clip:NAME:…` in fp32 and lower precisions:

* `plain`: `torch.onnx.export` of open_clip's tower as it stands, in ONNX Runtime with its own settings;
* ours in every precision of the bundle, with the settings of our runtime;
* OpenVINO on our fp32 graph, and after NNCF's quantisation to int8.

Each on one thread, one picture or sentence at a time, inputs prepared beforehand: what is timed is the engine. The
engines take turns, one query each, so that a busy neighbour slows all of them. `cosine` is the smallest to `plain`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from clip_edge.benchmarks.environment import read_environment
from clip_edge.benchmarks.peers import PEERS
from clip_edge.benchmarks.peers.client import PeerProcess
from clip_edge.benchmarks.peers.environments import python_of
from clip_edge.benchmarks.peers.job import PeerJob
from clip_edge.bundle import GOLDEN, TOWERS, Bundle, Tower
from clip_edge.files import write_file, write_json
from clip_edge.golden import read_golden
from clip_edge.numerics import cosine_rows, unit_rows
from clip_edge.preprocess import normalize
from clip_edge.runtime.backends import Options
from clip_edge.runtime.backends.onnxruntime import open_tower
from clip_edge.schema import as_dict

PLAIN = """
import sys, torch, open_clip
from timm.utils.model import reparameterize_model
name, weights, tower, out = sys.argv[1:]
torch.manual_seed(0)
given = dict(pretrained=weights, weights_only=True)
if weights == "random":
    given = dict(load_weights=False, pretrained_text=False)
model = reparameterize_model(open_clip.create_model(name, **given).eval())
class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, x):
        return getattr(self.model, "encode_" + tower)(x, normalize=True)
size = model.visual.image_size
high, wide = size if isinstance(size, tuple) else (size, size)
x = torch.randn(2, 3, high, wide) if tower == "image" else open_clip.get_tokenizer(name)(["a cat", "two dogs"])
torch.onnx.export(Tower(), (x,), out, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)
"""
ITEMS = 8
PEER_NAMES = ("openvino", "openvino-int8")
PLAIN_LIMIT_S = 600
GOAL = 1.6
HOLDS = 0.99  # the cosine that a precision must hold to count as the best
Query = Callable[[int], float]  # index of the item -> seconds


@dataclass(frozen=True)
class Engine:
    """One way to run one tower: its samples, and how near it is to the plain export."""

    bundle: str
    tower: str
    name: str
    cosine: float
    p10_ms: float
    median_ms: float
    ratio: float  # median of plain / median
    ratio_p10: float
    samples_ms: list[float]


def main() -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each tower")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = [row for bundle in args.bundles for row in measure(Bundle.open(bundle), args.seconds, Path(work))]
    settings = {"threads": 1, "batch": 1, "seconds": args.seconds, "items": ITEMS, "timed": "engine only"}
    report = {
        "settings": settings,
        "environment": as_dict(read_environment()),
        "results": [asdict(row) for row in found],
    }
    write_json(args.out, report)
    write_file(args.page, page(report).encode())


def measure(bundle: Bundle, seconds: float, work: Path) -> list[Engine]:
    """Every engine on both towers of a bundle; what takes long is made before anything is timed."""
    rows: list[Engine] = []
    for tower in TOWERS:
        folder = work / f"{bundle.folder.name}-{tower}"
        folder.mkdir()
        inputs, job = _items(bundle, tower, folder)
        encoders = {"plain": _plain(bundle, tower, folder / "plain.onnx")}
        encoders |= {f"ours {name}": run for name, run in _ours(bundle, tower).items()}
        reference = unit_rows(np.concatenate([encoders["plain"](inputs[i : i + 1]) for i in range(ITEMS)]))
        queries = {name: _timed(run, inputs) for name, run in encoders.items()}
        cosines = {name: _least(run, inputs, reference) for name, run in encoders.items()}
        peers = [_peer(name, job, folder) for name in PEER_NAMES]
        try:
            for peer in peers:
                cosines[peer.name] = float(cosine_rows(peer.embeddings(), reference).min())
                queries[peer.name] = _asked(peer)
            samples = take_turns(queries, seconds)
        finally:
            for peer in peers:
                peer.close()
        rows += [_engine(bundle.manifest.name, tower, name, cosines[name], samples) for name in queries]
    return rows


def take_turns(queries: dict[str, Query], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each query: one of every engine in turn, until the time is over. The first round warms up."""
    samples: dict[str, list[float]] = {name: [] for name in queries}
    end_s = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < end_s or turn < 3:
        for name, query in queries.items():
            samples[name].append(1e3 * query(turn % ITEMS))
        turn += 1
    return {name: values[1:] for name, values in samples.items()}


def _engine(bundle: str, tower: str, name: str, cosine: float, samples: dict[str, list[float]]) -> Engine:
    (fast, middle), (plain_fast, plain_middle) = (np.percentile(samples[one], (10, 50)) for one in (name, "plain"))
    return Engine(
        bundle=bundle,
        tower=tower,
        name=name,
        cosine=round(cosine, 6),
        p10_ms=round(float(fast), 3),
        median_ms=round(float(middle), 3),
        ratio=round(float(plain_middle / middle), 3),
        ratio_p10=round(float(plain_fast / fast), 3),
        samples_ms=[round(value, 3) for value in samples[name]],
    )


def _items(bundle: Bundle, tower: Tower, folder: Path) -> tuple[np.ndarray, PeerJob]:
    """Golden pictures or sentences: as our input, and as what peers prepare themselves."""
    golden = read_golden(bundle.read(GOLDEN, 2**30), bundle.manifest, bundle.folder)
    images = []
    for index, image in enumerate(golden.images[:ITEMS] if tower == "image" else ()):
        Image.fromarray(image).save(folder / f"{index}.png")
        images.append(str(folder / f"{index}.png"))
    texts = tuple(golden.texts[:ITEMS]) if tower == "text" else ()
    pixels = normalize(golden.pixels[:ITEMS], bundle.manifest.image.preprocess)
    inputs: np.ndarray = pixels if tower == "image" else golden.input_ids[:ITEMS]
    source = str(bundle.manifest.source.provenance["source"])
    return inputs, PeerJob("", "", tower, 1, 1, str(bundle.folder), source, tuple(images), texts, "")


def _plain(bundle: Bundle, tower: Tower, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    _, name, weights = str(bundle.manifest.source.provenance["source"]).split(":", 2)
    words = [sys.executable, "-W", "ignore", "-c", PLAIN, name, weights, tower, str(path)]
    subprocess.run(words, check=True, capture_output=True, timeout=PLAIN_LIMIT_S)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = (item.name for item in session.get_inputs())
    return lambda rows: np.asarray(session.run(None, {given: rows})[0])


def _ours(bundle: Bundle, tower: Tower) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Precision -> the tower as our runtime opens it."""
    chosen = [item for item in bundle.manifest.artifacts if item.tower == tower and item.target == "onnx"]
    return {item.precision: open_tower(bundle, item, Options(threads=1)) for item in chosen}


def _timed(run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray) -> Query:
    def query(index: int) -> float:
        started_s = time.perf_counter()
        run(inputs[index : index + 1])
        return time.perf_counter() - started_s

    return query


def _asked(peer: PeerProcess) -> Query:
    return lambda _: peer.query(1).stages_s["encode"]  # it takes its items in turn by itself


def _least(run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, reference: np.ndarray) -> float:
    found = unit_rows(np.concatenate([run(inputs[i : i + 1]) for i in range(len(inputs))]))
    return float(cosine_rows(found, reference).min())


def _peer(name: str, job: PeerJob, folder: Path) -> PeerProcess:
    work = folder / name
    work.mkdir()
    peer = PEERS[name]
    given = {**asdict(job), "module": peer.module, "variant": peer.variant, "work": str(work)}
    return PeerProcess(name, PeerJob(**given), python_of(name), work)


def page(report: dict[str, Any]) -> str:
    """The tables in Markdown, with the goals in words."""
    rows = [Engine(**row) for row in report["results"]]
    settings, machine = report["settings"], report["environment"]
    lines = [
        "# Our quickest graphs beside the plain export and OpenVINO",
        "",
        "Made by `python -m clip_edge.benchmarks.export_speed`; samples: `benchmarks/export_speed.json`.",
        f"{machine['cpu']}, one thread, one query at a time, engines in turns for {settings['seconds']:g} s a tower.",
        "Only the engine is timed. `plain` is `torch.onnx.export` of open_clip's tower in ONNX Runtime. Ratios are of",
        "medians, and in brackets of 10th percentiles, which a busy neighbour disturbs less. Cosine: the smallest to",
        f"`plain` over {settings['items']} golden rows; weights are random.",
    ]
    for bundle, tower in dict.fromkeys((row.bundle, row.tower) for row in rows):
        some = [row for row in rows if (row.bundle, row.tower) == (bundle, tower)]
        lines += ["", f"## {bundle}, {tower}", ""]
        lines += ["| engine | median | 10 % | times `plain` | cosine |", "|---|--:|--:|--:|--:|"]
        for row in some:
            times = f"{row.ratio:.2f} ({row.ratio_p10:.2f})"
            lines.append(f"| {row.name} | {row.median_ms:.2f} ms | {row.p10_ms:.2f} ms | {times} | {row.cosine:.4f} |")
        lines += ["", *verdicts(some)]
    return "\n".join([*lines, ""])


def verdicts(rows: Sequence[Engine]) -> list[str]:
    """Whether our best precision of one tower is 1.6 times as quick as plain, and no slower than the peers."""
    best = min(
        (row for row in rows if row.name.startswith("ours") and row.cosine >= HOLDS), key=lambda row: row.median_ms
    )
    met = _word(best.ratio >= GOAL)
    said = [f"`{best.name}` is {best.ratio:.2f} times as quick as the plain export; the goal of {GOAL}: {met}."]
    for peer in (row for row in rows if row.name in PEER_NAMES):
        times = peer.median_ms / best.median_ms
        low = peer.p10_ms / best.p10_ms
        said.append(f"Against `{peer.name}`: {times:.2f} times as quick ({low:.2f}); no slower: {_word(times >= 1)}.")
    return said


def _word(met: bool) -> str:
    return "met" if met else "**missed**"


if __name__ == "__main__":
    main()
