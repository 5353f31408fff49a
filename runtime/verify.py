"""The proof that a bundle still gives its reference embeddings on this machine, with this backend."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clip_edge.bundle import GOLDEN, Artifact, Bundle, Tower
from clip_edge.console import SILENT, Console
from clip_edge.errors import BundleError
from clip_edge.golden import MAX_GOLDEN_BYTES, Golden, read_golden
from clip_edge.numerics import TOLERANCES, cosine_rows
from clip_edge.preprocess import Floats, normalize
from clip_edge.runtime.backends import BACKENDS, DEFAULT, Inputs, Options, find_backend, open_inputs, open_tower
from clip_edge.runtime.verify_graphs import GraphCheck, check_graphs

MAX_GREY = 1  # another build of Pillow may round a pixel the other way; a wrong filter is off by ten and more
MAX_LENGTH_ERROR = 1e-3  # of a unit vector: fp16 rounds to 5e-4
BATCHES = (1, 3, 8)  # a graph with a fixed batch inside shows when the batch changes


@dataclass(frozen=True)
class TowerCheck:
    """One artefact against the reference. `problem` says in words why it failed, or is null."""

    tower: Tower
    target: str
    precision: str
    path: str
    cases: int
    min_cosine: float
    p1_cosine: float  # the first percentile over the rows
    mean_cosine: float
    max_abs: float
    tolerance: float
    problem: str | None

    @property
    def passed(self) -> bool:
        """Whether every golden row is near enough."""
        return self.problem is None


@dataclass(frozen=True)
class Verification:
    """All checks of one bundle with one backend; hashes and schema held, or there would be none."""

    bundle: str
    backend: str
    files: int
    preprocess_max_grey: int
    token_rows_different: int
    towers: tuple[TowerCheck, ...]
    top1_agreement: dict[str, float]  # `label` -> share of golden pictures whose nearest sentence is the reference's
    graphs: tuple[GraphCheck, ...] = ()  # those for segmentation

    @property
    def preprocess_passed(self) -> bool:
        """Whether pictures come out here as where the bundle was made."""
        return self.preprocess_max_grey <= MAX_GREY

    @property
    def problems(self) -> list[str]:
        """What failed, in words; empty when everything passed."""
        checks: list[TowerCheck | GraphCheck] = [*self.towers, *self.graphs]
        found = [f"{check.path}: {check.problem}" for check in checks if check.problem]
        if not self.preprocess_passed:
            found.append(f"preprocessing differs by {self.preprocess_max_grey} grey levels, {MAX_GREY} allowed")
        if self.token_rows_different:
            found.append(f"token ids differ in {self.token_rows_different} sentences")
        return found

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.problems


def verify(
    path: Path,
    backend: str = DEFAULT,
    *,
    threads: int | None = None,
    device: int = 0,
    engines: Path | None = None,
    precision: str | None = None,
    console: Console = SILENT,
) -> Verification:
    """Check hashes, schema, preprocessing, token ids and every artefact that `backend` can run.

    With a `precision`, only the artefacts that have it. `threads`, `device` and `engines` as in `Options`.

    Raises:
        BundleError: the bundle is damaged, so that nothing in it can be trusted.
        UsageError, UnavailableError: as `find_backend`.
    """
    row = find_backend(backend)
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    golden = read_golden(bundle.read(GOLDEN, MAX_GOLDEN_BYTES), manifest, path / GOLDEN)
    artifacts = [
        item
        for item in manifest.artifacts
        if item.target in row.targets and item.precision not in row.refuses and precision in (None, item.precision)
    ]
    if not artifacts:
        raise BundleError(
            f"nothing in the bundle runs on `{backend}`",
            where=path,
            hint=f"export it again with --target {row.targets[0]}",
        )
    options = Options(threads, device=device, engines=engines)
    checks: list[TowerCheck] = []
    embeds: dict[tuple[str, Tower], Floats] = {}
    with console.progress("verifying", total=len(artifacts), unit="graphs") as meter:
        for artifact in artifacts:
            check, found = check_tower(backend, bundle, artifact, golden, options)
            embeds[label(artifact), artifact.tower] = found
            checks.append(check)
            meter.advance()
    inputs = open_inputs(backend, bundle)
    tokens = inputs.tokens()(golden.texts)
    return Verification(
        bundle=str(path),
        backend=backend,
        files=len(manifest.files),
        preprocess_max_grey=_grey_difference(golden, inputs),
        token_rows_different=int((tokens != golden.input_ids).any(1).sum()),
        towers=tuple(checks),
        top1_agreement=_agreement(embeds, golden),
        graphs=check_graphs(backend, bundle, golden, precision, options),
    )


def check_tower(
    backend: str, bundle: Bundle, artifact: Artifact, golden: Golden, options: Options
) -> tuple[TowerCheck, Floats]:
    """One artefact in `backend` against the reference, and the (N, D) embeddings that it gives.

    Raises:
        BundleError, UnavailableError: the engine cannot run it.
    """
    found = _embed(backend, bundle, artifact, golden, options)
    precisions = {artifact.precision, BACKENDS[backend].judged_as or artifact.precision}
    tolerance = min(TOLERANCES[precision].min_cosine for precision in precisions)
    return _check(artifact, found, golden, bundle.manifest.embedding.normalized, tolerance), found


def _embed(backend: str, bundle: Bundle, artifact: Artifact, golden: Golden, options: Options) -> Floats:
    run = open_tower(backend, bundle, artifact, options)
    if artifact.tower == "image":
        inputs: np.ndarray = normalize(golden.pixels, bundle.manifest.image.preprocess)
    else:
        inputs = golden.input_ids.astype(artifact.input_dtype)
    return np.concatenate([run(part) for part in _batches(inputs, artifact.batch)])


def _batches(rows: np.ndarray, batch: int | None) -> Iterator[np.ndarray]:
    """The rows in batches of changing size, or of `batch`."""
    start, turn = 0, 0
    while start < len(rows):
        size = batch or BATCHES[turn % len(BATCHES)]
        yield rows[start : start + size]
        start, turn = start + size, turn + 1


def _check(artifact: Artifact, found: Floats, golden: Golden, normalized: bool, tolerance: float) -> TowerCheck:
    expected = golden.image_embeds if artifact.tower == "image" else golden.text_embeds
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is judged below
        cosines = cosine_rows(found, expected)
        max_abs = float(np.abs(found.astype(np.float64) - expected).max())
    return TowerCheck(
        tower=artifact.tower,
        target=artifact.target,
        precision=artifact.precision,
        path=artifact.path,
        cases=len(expected),
        min_cosine=_rounded(cosines.min()),
        p1_cosine=_rounded(np.percentile(cosines, 1)),
        mean_cosine=_rounded(cosines.mean()),
        max_abs=_rounded(max_abs),
        tolerance=tolerance,
        problem=_problem(found, cosines, tolerance, normalized),
    )


def _problem(found: Floats, cosines: np.ndarray, tolerance: float, normalized: bool) -> str | None:
    if not np.isfinite(found).all():
        rows = int((~np.isfinite(found)).any(1).sum())
        return f"NaN or infinity in {rows} of {len(found)} rows"
    if cosines.min() < tolerance:
        worst = int(cosines.argmin())
        return f"cosine {cosines[worst]:.6f} in golden row {worst}, at least {tolerance} expected"
    length_error = np.abs(np.linalg.norm(found, axis=1) - 1).max() if normalized else 0.0
    if length_error > MAX_LENGTH_ERROR:
        return f"rows are not of length 1: off by {length_error:.4f}"
    return None


def _rounded(value: float) -> float:
    """Nine digits: enough for any judgement, and the same in every run. NaN becomes -1, which JSON can hold."""
    return -1.0 if math.isnan(value) else round(float(value), 9)


def _grey_difference(golden: Golden, inputs: Inputs) -> int:
    """The largest difference between preprocessing here and where the bundle was made, in grey levels."""
    pairs = zip(golden.images, golden.pixels, strict=True)
    return max(int(np.abs(inputs.pixels(Image.fromarray(image)).astype(int) - pixels).max()) for image, pixels in pairs)


def label(artifact: Artifact) -> str:
    """`int8` for the usual target, `trt int8` for the others: two targets may hold the same precision."""
    return artifact.precision if artifact.target == "onnx" else f"{artifact.target} {artifact.precision}"


def _agreement(embeds: dict[tuple[str, Tower], Floats], golden: Golden) -> dict[str, float]:
    expected = (golden.image_embeds @ golden.text_embeds.T).argmax(1)  # (N, D), (M, D) -> (N,)
    shares: dict[str, float] = {}
    for name in dict.fromkeys(name for name, _ in embeds):
        image, text = embeds.get((name, "image")), embeds.get((name, "text"))
        if image is not None and text is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                shares[name] = float(((image @ text.T).argmax(1) == expected).mean())
    return shares
