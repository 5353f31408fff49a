"""DataCompDR shards (Vasu et al. 2024) as sidecars of the pictures that they describe.

Per sample: `{uid}.paug.json`, `{uid}.syn.json`, and `{uid}.npz` or `{uid}.pth.gz` with `image_emb` (A, D), `text_emb`
and `syn_text_emb`, the teachers' vectors side by side in D. The published data keep all captions in `text_emb`, the
true one first.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clip_edge.console import SILENT, Console
from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.data.tars import TarError, scan_tar
from clip_edge.distill.reinforce.augment import OPS, Params, ReplaySpec, pixels_sha256, versions
from clip_edge.distill.reinforce.engine import Work, begin, finish, finished
from clip_edge.distill.reinforce.knowledge import true_captions
from clip_edge.distill.reinforce.manifest import FileRecord, Job, Manifest, write_manifest
from clip_edge.distill.reinforce.shards import Shard
from clip_edge.distill.reinforce.sidecar import Caption, Header, Row, Skipped, encode_rows, pack, write_sidecar
from clip_edge.distill.teacher import TeacherInfo
from clip_edge.errors import DataError, UsageError
from clip_edge.files import parse_json
from clip_edge.images import open_image
from clip_edge.preprocess import PreprocessSpec

SIDE = 224  # the size at which DataCompDR was made: its translations are pixels of it
OPS_EACH = 2
MAX_MEMBER_BYTES = 64 * 1024 * 1024
PARTS = ("paug.json", "syn.json", "npz", "pth.gz", "txt", "json")
OPENAI = PreprocessSpec(SIDE, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
PUBLISHED = ("ViT-L-14/openai:768:100", "ViT-L-14/datacomp_xl_s13b_b90k:768:100")  # of DataCompDR-12M and -1B

Members = dict[str, tuple[Path, int, int]]  # ending -> file, offset, size


@dataclass(frozen=True)
class _Record:
    row: Row
    images: Tensor  # (A, D)
    texts: Tensor  # (captions of the row, D)


def import_datacompdr(
    dataset: DataSet,
    shards: Path,
    folder: Path,
    *,
    teachers: Sequence[str] = PUBLISHED,
    dtype: Any = "bf16",
    console: Console = SILENT,
) -> Manifest:
    """Write sidecars in `folder` for the pictures of `dataset` from the DataCompDR tars in `shards`.

    Args:
        teachers: NAME:DIMENSION:LOGIT_SCALE of each, in the order in which their vectors stand side by side.

    Raises:
        DataError: no DataCompDR sample in `shards`, or none for these pictures.
    """
    infos = tuple(_teacher(text) for text in teachers)
    index = find_members(shards)
    first = _first(dataset, index, infos)
    job = Job(
        teachers=infos,
        replay=ReplaySpec(),
        augmentations=len(first.row.params),
        captions=sum(caption.synthetic for caption in first.row.captions),
        captioner="datacompdr",
        captioner_sha256="",
        languages=dataset.langs[:1],
        dtype=dtype,
        seed=0,
        batch_size=1,
        threads=1,
        device="imported",
        versions=versions(),
        pixels_sha256=pixels_sha256(),
        made_from="datacompdr",
    )
    work = Work(dataset, job, folder, (), None)
    manifest, todo = begin(work)
    with console.progress("import", len(dataset), "pictures") as meter:
        meter.advance(len(dataset) - sum(len(shard) for shard in todo))
        for shard in todo:
            manifest = manifest.with_file(*_import_shard(work, shard, index))
            write_manifest(folder, manifest)
            meter.advance(len(shard))
    return finish(work, manifest)


def find_members(folder: Path) -> dict[str, Members]:
    """Sample key -> where its DataCompDR members lie in the tars of `folder`.

    Raises:
        DataError: there are none.
    """
    found: dict[str, Members] = {}
    for tar in sorted(folder.glob("*.tar")) if folder.is_dir() else []:
        try:
            for member in scan_tar(tar):
                pure = PurePosixPath(member.name)
                stem, _, ending = pure.name.partition(".")
                if member.kind == "file" and ending in PARTS:
                    found.setdefault(str(pure.parent / stem), {})[ending] = (tar, member.offset, member.size)
        except TarError as problem:
            raise DataError(f"a damaged tar: {problem}", where=tar, hint="download it again") from problem
    found = {key: members for key, members in found.items() if "paug.json" in members}
    if not found:
        raise DataError(
            "no DataCompDR samples: no tar here has members named {uid}.paug.json",
            where=folder,
            hint="name the folder of the downloaded shards with --import-datacompdr",
        )
    return found


def _teacher(text: str) -> TeacherInfo:
    name, _, rest = text.partition(":")
    dim, _, scale = rest.partition(":")
    try:
        return TeacherInfo(f"datacompdr:{name}", name, int(dim), float(scale), None, OPENAI, "", "", "")
    except ValueError:
        raise UsageError(
            f"not NAME:DIMENSION:LOGIT_SCALE: `{text}`", hint=f"for example --import-teacher {PUBLISHED[0]}"
        ) from None


def _first(dataset: DataSet, index: Mapping[str, Members], infos: Sequence[TeacherInfo]) -> _Record:
    """A sample that can be imported: it tells how many augmentations and captions there are."""
    problem = "the keys of the pictures and of the DataCompDR samples differ"
    for i, key in enumerate(dataset.keys):
        if key in index:
            try:
                return _record(dataset, i, i, index[key], infos)
            except DataError as error:
                problem = error.what
    raise DataError(f"no picture of {dataset.name} can be joined with these shards: {problem}", where=dataset.where(0))


def _import_shard(work: Work, shard: Shard, index: Mapping[str, Members]) -> tuple[FileRecord, tuple[Skipped, ...]]:
    records: list[_Record] = []
    skipped = []
    for i in range(shard.first, shard.last):
        key = work.dataset.keys[i]
        try:
            if key not in index:
                raise DataError("no DataCompDR sample has this key")
            record = _record(work.dataset, i, i - shard.first, index[key], work.job.teachers)
            if len(record.row.params) != work.job.augmentations:
                raise DataError(f"{len(record.row.params)} augmentations; others have {work.job.augmentations}")
            records.append(record)
        except DataError as problem:
            skipped.append(Skipped(key, shard.name, problem.what))
    tensors = pack([record.row for record in records], work.job.shape)
    dims = [teacher.dim for teacher in work.job.teachers]
    images = (
        torch.stack([one.images for one in records]) if records else torch.empty(0, work.job.augmentations, sum(dims))
    )
    texts = torch.cat([torch.empty(0, sum(dims)), *(one.texts for one in records)])
    for k, (image, text) in enumerate(zip(torch.split(images, dims, -1), torch.split(texts, dims, -1), strict=True)):
        tensors |= encode_rows(f"image.{k}", normalize(image, dim=-1), work.job.dtype)
        tensors |= encode_rows(f"text.{k}", normalize(text, dim=-1), work.job.dtype)
    header = Header(1, work.job.id, shard.name, len(shard), tuple(skipped))
    path = work.sidecar_of(shard)
    write_sidecar(path, tensors, header)
    return finished(path, shard, len(records)), header.skipped


def _record(dataset: DataSet, i: int, position: int, members: Members, infos: Sequence[TeacherInfo]) -> _Record:
    """One joined sample; DataError says why a sample cannot be used."""
    sample = dataset.sample(i)
    image = open_image(sample.image)
    digest = hashlib.sha256(sample.image)
    known = _json(members, "json").get("sha256") if "json" in members else None
    if isinstance(known, str) and known != digest.hexdigest():
        raise DataError("the picture is not the one that was described: its SHA-256 differs")
    params = tuple(read_params(entry, image.size) for entry in _list(_json(members, "paug.json"), "param_aug"))
    synthetic = (
        [
            text
            for key, texts in sorted(_json(members, "syn.json").items())
            if key.startswith("syn_text")
            for text in texts
        ]
        if "syn.json" in members
        else []
    )
    images, texts, count = _embeddings(members, sum(info.dim for info in infos), len(synthetic))
    if len(images) != len(params):
        raise DataError(f"{len(params)} augmentations and {len(images)} image embeddings")
    true = true_captions(sample, dataset.langs[:1])[:count]
    if len(true) < count:
        raise DataError(f"{count} embeddings of true captions; the data set has {len(true)}")
    if (
        "txt" in members
        and count == 1
        and " ".join(_read(members, "txt").decode("utf-8", "replace").split()) != true[0].text
    ):
        raise DataError("the caption is not the one that was embedded")
    made = tuple(Caption(" ".join(str(text).split()), dataset.langs[0], True, -1) for text in synthetic)
    row = Row(sample.key, position, digest.digest(), image.size, params, (*true, *made))
    return _Record(row, images, texts)


def read_params(entry: object, size: tuple[int, int]) -> Params:
    """`[[top, left, height, width], [[operation, magnitude], ...]]` for a picture of (width, height); None skips."""
    try:
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError("expected two lists")
        crop, steps = entry
        top, left, tall, wide = (int(value) for value in crop) if crop is not None else (0, 0, size[1], size[0])
        pairs = [(int(op), float(magnitude)) for op, magnitude in steps or ()]
        pairs += [(0, 0.0)] * (OPS_EACH - len(pairs))
        if len(pairs) != OPS_EACH or not all(0 <= op < len(OPS) and np.isfinite(value) for op, value in pairs):
            raise ValueError(f"expected {OPS_EACH} of {len(OPS)} operations")
    except (TypeError, ValueError) as problem:
        raise DataError(
            f"param_aug is not [[top, left, height, width], [[operation, magnitude], ...]]: {problem}"
        ) from None
    if min(top, left) < 0 or min(tall, wide) < 1 or top + tall > size[1] or left + wide > size[0]:
        raise DataError(
            f"a crop leaves the picture of {size[0]} × {size[1]} pixels: it was resized since the crops were drawn"
        )
    share = {OPS.index("TranslateX"), OPS.index("TranslateY")}
    magnitudes = tuple(float(np.float32(value / SIDE if op in share else value)) for op, value in pairs)
    return Params((top, left, tall, wide), False, tuple(op for op, _ in pairs), magnitudes)


def _embeddings(members: Members, dim: int, synthetic: int) -> tuple[Tensor, Tensor, int]:
    """Image embeddings (A, D), those of all captions (true ones first), and how many are of true captions."""
    arrays = _arrays(members)
    for name, values in arrays.items():
        if values.ndim != 2 or values.shape[1] != dim or not bool(values.isfinite().all()):
            raise DataError(f"`{name}` has the shape {tuple(values.shape)}; the teachers give (n, {dim}) numbers")
    if "image_emb" not in arrays or "text_emb" not in arrays:
        raise DataError(f"expected image_emb and text_emb; found {', '.join(sorted(arrays)) or 'nothing'}")
    made = [values for name, values in sorted(arrays.items()) if name.startswith("syn_text")]
    texts = torch.cat([arrays["text_emb"], *made])
    if len(texts) <= synthetic:
        raise DataError(f"{synthetic} synthetic captions and {len(texts)} text embeddings")
    return arrays["image_emb"], texts, len(texts) - synthetic


def _arrays(members: Members) -> dict[str, Tensor]:
    """The arrays of the npz, or else of the pth.gz, as fp32; nothing in either is executed."""
    ending = next((name for name in ("npz", "pth.gz") if name in members), None)
    if ending is None:
        raise DataError("no member ends with .npz or .pth.gz")
    data = _read(members, ending)
    try:
        if ending == "npz":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MAX_MEMBER_BYTES:
                    raise ValueError("it unpacks to more than 64 MiB")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
        with gzip.open(io.BytesIO(data)) as unpacked:
            plain = unpacked.read(MAX_MEMBER_BYTES + 1)
        if len(plain) > MAX_MEMBER_BYTES:
            raise ValueError("it unpacks to more than 64 MiB")
        table = torch.load(io.BytesIO(plain), weights_only=True, map_location="cpu")
        return {str(name): torch.as_tensor(values).float() for name, values in table.items()}
    except Exception as problem:  # zip, gzip, npy and torch files raise anything when they are damaged
        raise DataError(f"the embeddings cannot be read: {str(problem).splitlines()[0]}") from problem


def _json(members: Members, ending: str) -> dict[str, Any]:
    value = parse_json(_read(members, ending), where=members[ending][0], error=DataError)
    if not isinstance(value, dict):
        raise DataError(f"{ending} is no object")
    return value


def _list(table: Mapping[str, Any], name: str) -> list[Any]:
    """A list, which some copies of the data hold as JSON inside a string."""
    value = table.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as problem:
            raise DataError(f"`{name}` is not valid JSON") from problem
    if not isinstance(value, list) or not value:
        raise DataError(f"`{name}` is no list")
    return value


def _read(members: Members, ending: str) -> bytes:
    path, offset, size = members[ending]
    if size > MAX_MEMBER_BYTES:
        raise DataError(f"a .{ending} of {size} bytes; at most {MAX_MEMBER_BYTES} are read")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
