"""Export: a student folder becomes a bundle, or nothing at all when the numbers differ."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clip_edge import __version__
from clip_edge.bundle import (
    GOLDEN,
    MANIFEST,
    SCHEMA,
    TOKENIZER,
    Artifact,
    Bundle,
    Embedding,
    ImageInput,
    Licence,
    Manifest,
    Parity,
    Precision,
    Source,
    TextInput,
    Tower,
    embedding_space,
    list_files,
)
from clip_edge.console import SILENT, Console
from clip_edge.distill.models.checkpoint import LoadedStudent, load_student
from clip_edge.errors import VerificationError
from clip_edge.export import cases, huggingface
from clip_edge.export.targets import Declaration, Target, file_name, find_target
from clip_edge.export.towers import probe_ids, probe_pixels, split_towers
from clip_edge.files import new_folder, refuse_existing, write_file
from clip_edge.golden import Golden, read_examples
from clip_edge.preprocess import Floats, normalize, to_pixels
from clip_edge.runtime.verify import TowerCheck, Verification, verify
from clip_edge.schema import as_dict

VERSIONED = ("numpy", "onnx", "onnxruntime", "onnxscript", "open_clip_torch", "pillow", "timm", "tokenizers", "torch")
EXAMPLES = "examples.safetensors"
BATCH = 16


@dataclass(frozen=True)
class Request:
    """One target in one precision."""

    target: str
    precision: Precision = "fp32"


class _Module(Protocol):
    def write_tower(
        self, tower: nn.Module, example: Tensor, path: Path, declaration: Declaration, *, opset: int
    ) -> None: ...


def export(
    model: Path, requests: Sequence[Request], out: Path, *, console: Console = SILENT
) -> tuple[Bundle, list[Verification]]:
    """Write the student in `model` (a student folder or a run) as a bundle to `out`, and prove it.

    The same student gives the same bytes, file by file.

    Raises:
        UsageError: unknown target or precision; `out` exists.
        CheckpointError: the student cannot be read.
        ExportError: a tower cannot be written.
        VerificationError: what was written gives other embeddings than PyTorch; nothing is left behind.
    """
    targets = {request: find_target(request.target, request.precision) for request in requests}
    refuse_existing(out)
    loaded = load_student(model)
    with new_folder(out) as folder:
        manifest = _write(loaded, targets, folder, console)
        proofs = [verify(folder, name, threads=1) for name in dict.fromkeys(t.backend for t in targets.values())]
        for proof in proofs:
            _judge(proof, model)
        checks = [(proof.backend, check) for proof in proofs for check in proof.towers]
        write_file(folder / MANIFEST, _with_parity(manifest, checks).to_bytes())
    return Bundle.open(out), [dataclasses.replace(proof, bundle=str(out)) for proof in proofs]


def _write(loaded: LoadedStudent, targets: dict[Request, Target], folder: Path, console: Console) -> Manifest:
    """Every file of the bundle, the manifest without proofs last."""
    towers: dict[Tower, nn.Module] = dict(zip(("image", "text"), split_towers(loaded.student), strict=True))
    artifacts = []
    with console.progress("exporting", total=2 * len(targets), unit="graphs") as meter:
        for request, target in targets.items():
            for tower, module in towers.items():
                artifacts.append(_write_artifact(loaded, tower, module, request, target, folder))
                meter.advance()
    write_file(folder / GOLDEN, make_golden(loaded).to_bytes())
    embedding, image, text = _embedding(loaded), _image_input(loaded), _text_input(loaded)
    write_file(folder / TOKENIZER, loaded.tokenizer.json_bytes)
    write_file(folder / "config.json", huggingface.config(loaded.spec.name, embedding, image, text))
    write_file(folder / "preprocessor_config.json", huggingface.preprocessor_config(image))
    tokenizer_config = huggingface.tokenizer_config(loaded.tokenizer.json_bytes, loaded.tokenizer.spec)
    write_file(folder / "tokenizer_config.json", tokenizer_config)
    manifest = Manifest(
        schema=SCHEMA,
        name=loaded.spec.name,
        created_by=f"clip-edge {__version__}",
        embedding=embedding,
        image=image,
        text=text,
        artifacts=tuple(artifacts),
        licences=tuple(Licence(**licence) for licence in loaded.info["licences"]),
        research_only=loaded.info["research_only"],
        source=Source(loaded.spec.name, weights_sha256(loaded.student), loaded.info["provenance"]),
        versions=_versions(),
        files=list_files(folder),
    )
    write_file(folder / MANIFEST, manifest.to_bytes())
    return manifest


def _write_artifact(
    loaded: LoadedStudent, tower: Tower, module: nn.Module, request: Request, target: Target, folder: Path
) -> Artifact:
    declaration = target.towers[tower]
    path = file_name(target, tower, request.precision)
    (folder / path).parent.mkdir(exist_ok=True)
    example = probe_pixels(loaded.student) if tower == "image" else probe_ids(loaded.student)
    writer = cast(_Module, importlib.import_module(target.module))
    writer.write_tower(module, example, folder / path, declaration, opset=target.opset)
    return Artifact(
        tower=tower,
        target=request.target,
        precision=request.precision,
        path=path,
        input=declaration.input,
        input_dtype=declaration.input_dtype,
        output=declaration.output,
        batch=target.batch,
        opset=target.opset,
        parameters=sum(value.numel() for value in module.parameters()),
        verification=None,
    )


def make_golden(loaded: LoadedStudent) -> Golden:
    """The golden set of a student: its references come from PyTorch, before any folding."""
    own_images, own_texts = read_examples(loaded.folder / EXAMPLES)
    images, texts = cases.all_images(own_images), cases.all_texts(own_texts)
    pixels = np.stack([to_pixels(Image.fromarray(image), loaded.preprocess) for image in images])
    ids = loaded.tokenizer(texts)
    return Golden(
        images=tuple(images),
        pixels=pixels,
        texts=tuple(texts),
        input_ids=ids,
        image_embeds=_embed(loaded.student.encode_image, normalize(pixels, loaded.preprocess)),
        text_embeds=_embed(loaded.student.encode_text, ids),
    )


def _embed(encode: Callable[[Tensor], Tensor], rows: np.ndarray) -> Floats:
    with one_thread(), torch.inference_mode():
        parts = [encode(torch.from_numpy(rows[start : start + BATCH])) for start in range(0, len(rows), BATCH)]
        embeds: Floats = torch.cat(parts).numpy()
    return embeds


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order: the number of threads changes the last bit of an embedding, and so the bytes of a bundle."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weights_sha256(student: nn.Module) -> str:
    """One hash over all weights that shape an embedding, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(student.state_dict().items()):
        if name not in ("logit_scale", "logit_bias"):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _embedding(loaded: LoadedStudent) -> Embedding:
    student, spec, tokenizer = loaded.student, loaded.spec, loaded.tokenizer
    image = {"tower": spec.image.tower, "args": spec.image.args, "projection": spec.image.projection}
    architecture = {"image": image, "text": as_dict(spec.text)}
    return Embedding(
        space=embedding_space(
            weights_sha256(student), architecture, loaded.preprocess, tokenizer.spec, tokenizer.json_bytes
        ),
        dim=spec.embed_dim,
        normalized=True,
        logit_scale=math.exp(student.logit_scale.item()),
        logit_bias=None if student.logit_bias is None else student.logit_bias.item(),
    )


def _image_input(loaded: LoadedStudent) -> ImageInput:
    return ImageInput(loaded.preprocess, crop="center" if loaded.preprocess.resize == "shortest" else "none")


def _text_input(loaded: LoadedStudent) -> TextInput:
    text = loaded.spec.text
    return TextInput(loaded.tokenizer.spec, text.causal, text.pad_mask, text.pool, activation="gelu")


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a student needs not all of them
            continue
    return found


def _judge(proof: Verification, model: Path) -> None:
    if not proof.passed:
        raise VerificationError(
            "the exported model differs from PyTorch:\n  " + "\n  ".join(proof.problems),
            where=model,
            hint="nothing was written; report this together with the student's model.json",
        )


def _with_parity(manifest: Manifest, checks: Sequence[tuple[str, TowerCheck]]) -> Manifest:
    parity = {
        check.path: Parity(backend, check.cases, check.min_cosine, check.mean_cosine, check.max_abs, check.tolerance)
        for backend, check in checks
    }
    artifacts = tuple(dataclasses.replace(item, verification=parity.get(item.path)) for item in manifest.artifacts)
    return dataclasses.replace(manifest, artifacts=artifacts)
