"""A plan on a device -> rows: every bundle, precision and number of threads, one query at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from clip_edge.benchmarks.devices.remote import START_LIMIT_S, Remote
from clip_edge.benchmarks.devices.shell import DeviceError
from clip_edge.benchmarks.plan import Cell, Plan
from clip_edge.benchmarks.report import Accuracy, Device, Failure, Row
from clip_edge.benchmarks.rows import row_of
from clip_edge.bundle import Bundle
from clip_edge.console import Console
from clip_edge.errors import ClipEdgeError

# What the native tool calls its stages, and what we do.
STAGES = {
    "image": {"decode": "decode", "prepare": "preprocess", "encode": "encode"},
    "text": {"prepare": "tokenise", "encode": "encode"},
}
BACKEND = "native"


class DeviceRun:
    """What one device gave; rows that were fetched stay, whatever happens to the device after."""

    def __init__(self, remote: Remote, plan: Plan) -> None:
        self.rows: dict[Cell, Row] = {}
        self.failures: list[Failure] = []
        self._remote, self._plan = remote, plan
        self._accuracy: dict[tuple[str, str, str], Accuracy] = {}
        self._before: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The device as rows name it."""
        return self._remote.shell.name

    def device(self) -> Device:
        """The device before and after."""
        after = self._before
        with suppress(ClipEdgeError):  # it may have gone; what was seen before stands
            after = self._remote.state()
        return Device(self._before, after)

    def measure(self, console: Console) -> None:
        """Copy, verify on the device, and measure; what fails is listed."""
        cells = {(cell.bundle, cell.precision, cell.threads) for cell in self._plan.cells if _fits(cell)}
        jobs = sorted(cells)
        if not jobs:
            self.failures.append(Failure(self.name, "a device measures single-stream at batch 1, and nothing else"))
            return
        try:
            self._remote.open()
            self._before = self._remote.facts
            images = self._remote.copy_images(self._plan.workload.images)
            self._measure_jobs(jobs, images, console)
        except ClipEdgeError as problem:
            self.failures.append(Failure(self.name, self._reason(problem)))
        finally:
            with suppress(ClipEdgeError):
                self._remote.close()

    def _measure_jobs(self, jobs: Sequence[tuple[str, str, int]], images: Sequence[str], console: Console) -> None:
        copied: dict[str, str | None] = {}
        with console.progress(f"measuring on {self.name}", len(jobs), "rows") as meter:
            for number, (bundle, precision, threads) in enumerate(jobs):
                row = f"{self.name} · {bundle} · {precision} · threads {threads}"
                try:
                    if bundle not in copied:
                        copied[bundle] = self._copy(bundle, f"bundle-{len(copied)}")
                    folder = copied[bundle]
                    if folder is not None:
                        self._measure(bundle, folder, precision, threads, f"row-{number}", images)
                except ClipEdgeError as problem:
                    self.failures.append(Failure(row, self._reason(problem)))
                    copied.setdefault(bundle, None)
                    if isinstance(problem, DeviceError) and problem.lost:
                        self._give_up(len(jobs) - number - 1)
                        return
                meter.advance()

    def _reason(self, problem: ClipEdgeError) -> str:
        return problem.what.removeprefix(f"{self.name}: ")  # it is named already

    def _give_up(self, left: int) -> None:
        if left:
            self.failures.append(Failure(self.name, f"{left} more were not tried, because the device stayed away"))

    def _copy(self, name: str, folder: str) -> str:
        """Copy a bundle, and let the device prove that it computes what was exported."""
        bundle = self._plan.bundles[name]
        self._remote.copy_bundle(bundle, folder)
        proof = self._remote.tool(f"{folder}-verify", ["verify", folder], limit_s=2 * START_LIMIT_S)
        for check in proof["towers"]:
            accuracy = Accuracy(float(check["min_cosine"]), float(check["tolerance"]), bool(check["passed"]))
            self._accuracy[name, str(check["tower"]), str(check["precision"])] = accuracy
        return folder

    def _measure(self, bundle: str, folder: str, precision: str, threads: int, row: str, images: Sequence[str]) -> None:
        limits_s = [limit_s for cell, limit_s in self._plan.limits_s.items() if cell.bundle == bundle and _fits(cell)]
        budget_s = max(limits_s)
        words = ["bench", folder, "--precision", precision, "--threads", str(threads), "--budget", f"{budget_s:g}"]
        words += ["--image", *images, "--text", *self._plan.workload.texts]
        answer = self._remote.tool(row, words, limit_s=2 * budget_s + START_LIMIT_S)
        watts = self._remote.watts(row)
        for result in answer["results"]:
            cell = Cell(bundle, result["tower"], precision, BACKEND, 1, threads, "single-stream")
            made = native_row(cell, result, answer, self._plan.bundles[bundle], self.name)
            energy_j = None if watts is None else watts * made.latency_s.mean
            accuracy = self._accuracy.get((bundle, cell.tower, precision))
            self.rows[cell] = replace(made, energy_j=energy_j, accuracy=accuracy)


def _fits(cell: Cell) -> bool:
    return cell.batch == 1 and cell.scenario == "single-stream" and cell.peer is None


def native_row(cell: Cell, result: Mapping[str, Any], answer: Mapping[str, Any], bundle: Bundle, device: str) -> Row:
    """One entry of `results` of the native tool's `bench --json` as a row."""
    artifact = bundle.manifest.artifact(cell.tower, ["onnx"], cell.precision)
    samples_s = tuple(float(seconds) for seconds in result["samples_s"])
    stages_s = {ours: float(result["stages_s"][theirs]) for theirs, ours in STAGES[cell.tower].items()}
    size = bundle.manifest.size_bytes(artifact.path)
    return replace(row_of(cell, samples_s, stages_s, int(answer["memory_rss_bytes"]), size, None), device=device)
