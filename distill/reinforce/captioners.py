"""Synthetic captions behind one interface: a file, the built-in scenes, open_clip or Hugging Face models.

The captions of a picture depend on the seed and on the picture, never on its place or its neighbours.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clip_edge.distill.data.samples import DataSet
from clip_edge.distill.models.from_hugging_face import hugging_face_preprocess, import_transformers
from clip_edge.distill.reinforce.rewrite import require_built_in, rewrite, scene_facts
from clip_edge.distill.reinforce.sidecar import Caption
from clip_edge.distill.teacher import load_teacher, weights_sha256
from clip_edge.errors import CheckpointError, DataError, UsageError, unknown_name
from clip_edge.files import sha256_bytes, sha256_file
from clip_edge.preprocess import PreprocessSpec, normalize, to_pixels

TOP_P = 0.9  # as the captions of MobileCLIP's reinforced data were sampled
MAX_TOKENS = 40
CLIP_START, CLIP_END = 49406, 49407  # in CLIP's vocabulary, which every CoCa of open_clip uses
MAX_LINE_BYTES = 1 << 20

# (sample number, decoded picture, how many per language, seed words) -> captions
Describe = Callable[[int, Image.Image, int, str], tuple[Caption, ...]]


@dataclass(frozen=True)
class Captioner:
    """Something that describes pictures. `sha256` changes whenever its captions could."""

    source: str
    sha256: str
    languages: tuple[str, ...]
    describe: Describe


def load_captioner(spec: str, dataset: DataSet, languages: Sequence[str], device: torch.device) -> Captioner:
    """The captioner that `spec` names: `rewrite`, file:F.jsonl, file:F.tsv, open_clip:coca_...:TAG or hf:FOLDER.

    Raises:
        UsageError: no such captioner, or it does not fit the data.
        CheckpointError: weights that cannot be read.
        UnavailableError: a package or a download is missing.
    """
    scheme, _, rest = spec.partition(":")
    if scheme not in CAPTIONERS:
        raise unknown_name("captioner", spec, CAPTIONERS)
    return CAPTIONERS[scheme](spec, rest, dataset, tuple(languages), device)


def _rewriter(spec: str, _: str, dataset: DataSet, languages: tuple[str, ...], device: torch.device) -> Captioner:
    require_built_in(dataset)
    names = {entry.id: entry.names for entry in dataset.classes}

    def describe(i: int, image: Image.Image, count: int, seed: str) -> tuple[Caption, ...]:
        facts, rng = scene_facts(dataset, i), random.Random(seed)
        return tuple(
            Caption(text, lang, True, -1) for lang in languages for text in rewrite(facts, names, lang, count, rng)
        )

    return Captioner(spec, sha256_bytes(b"rewrite 1"), languages, describe)


def _from_file(spec: str, rest: str, dataset: DataSet, languages: tuple[str, ...], device: torch.device) -> Captioner:
    path = Path(rest)
    if not path.is_file():
        raise UsageError(f"no such file of captions: `{rest}`", hint="write file:captions.jsonl or file:captions.tsv")
    table = read_captions(path, languages[0])
    spoken = tuple(dict.fromkeys(caption.language for found in table.values() for caption in found))

    def describe(i: int, image: Image.Image, count: int, seed: str) -> tuple[Caption, ...]:
        found = table.get(dataset.keys[i], ())
        per_language = ([one for one in found if one.language == lang][:count] for lang in spoken)
        return tuple(caption for captions in per_language for caption in captions)

    return Captioner(spec, sha256_file(path), spoken, describe)


def read_captions(path: Path, language: str) -> dict[str, tuple[Caption, ...]]:
    """Key -> captions, from JSON lines {"key", "captions": [...] or {language: [...]}} or TSV columns key, caption
    and optionally language. Captions without a language get `language`.

    Raises:
        DataError: a line that is neither, with its number.
    """
    found: dict[str, list[Caption]] = {}
    lines = _tsv_lines(path) if path.suffix.lower() == ".tsv" else _json_lines(path)
    for key, lang, text in lines:
        text = " ".join(text.split())
        if text:
            found.setdefault(key, []).append(Caption(text, language if lang is None else lang, True, -1))
    if not found:
        raise DataError("no captions in this file", where=path, hint='a line is {"key": "...", "captions": ["..."]}')
    return {key: tuple(captions) for key, captions in found.items()}


def _json_lines(path: Path) -> list[tuple[str, str | None, str]]:
    found = []
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                key, captions = entry["key"], entry["captions"]
                tables = captions.items() if isinstance(captions, dict) else [(None, captions)]
                triples = [(key, lang, text) for lang, texts in tables for text in texts]
                if not all(isinstance(key, str) and isinstance(text, str) for key, _, text in triples):
                    raise TypeError("keys and captions are strings")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
                raise DataError(
                    f"line {number} is not {{'key': ..., 'captions': [...]}}: {problem}",
                    where=path,
                    hint='for example: {"key": "000000", "captions": ["two apples on a table"]}',
                ) from problem
            found += triples
    return found


def _tsv_lines(path: Path) -> list[tuple[str, str | None, str]]:
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        columns = list(reader.fieldnames or [])
        if "key" not in columns or "caption" not in columns:
            raise DataError(f"no columns key and caption; found {', '.join(columns) or 'none'}", where=path)
        return [(row["key"] or "", row.get("language"), row["caption"] or "") for row in reader]


def _coca(spec: str, _: str, dataset: DataSet, languages: tuple[str, ...], device: torch.device) -> Captioner:
    import open_clip

    teacher = load_teacher(spec, device=device)
    model: Any = teacher.model
    if not hasattr(model, "text_decoder"):
        raise UsageError(f"`{spec}` writes no captions", hint="name a CoCa model: open_clip:coca_ViT-B-32:TAG")

    def generate(pixels: Tensor, count: int) -> list[str]:
        texts = [open_clip.decode(row) for row in write_words(model, pixels.expand(count, -1, -1, -1)).cpu()]
        return [text.partition("<end_of_text>")[0].replace("<start_of_text>", "") for text in texts]

    return _sampled(spec, teacher.info.weights_sha256, teacher.info.preprocess, generate, languages, device)


def write_words(coca: Any, pixels: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, L) token ids, each word sampled from the most probable 90 % (Holtzman et al. 2020).

    Written out, because open_clip's own `generate` does not run with current versions of transformers.
    """
    seen = coca(pixels)
    ids = torch.full((len(pixels), 1), CLIP_START, device=pixels.device)  # (N, 1)
    for _ in range(min(MAX_TOKENS, coca.context_length)):
        out = coca(pixels, ids, image_latent=seen["image_features"], image_embs=seen["image_embs"], output_labels=False)
        chances, order = out["logits"][:, -1].softmax(-1).sort(dim=-1, descending=True)  # (N, V)
        chances[chances.cumsum(-1) - chances >= TOP_P] = 0
        following = order.gather(1, torch.multinomial(chances, 1))  # (N, 1)
        following[(ids == CLIP_END).any(1)] = CLIP_END
        ids = torch.cat([ids, following], dim=1)
        if bool((following == CLIP_END).all()):
            break
    return ids


def _image_to_text(spec: str, rest: str, _: DataSet, languages: tuple[str, ...], device: torch.device) -> Captioner:
    folder = Path(rest)
    if not (folder / "config.json").is_file():
        raise UsageError(f"no Hugging Face model in `{rest}`", hint="name a folder that holds config.json")
    transformers = import_transformers()
    try:
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # transformers raises anything
        raise CheckpointError(f"transformers cannot load this captioner: {problem}", where=folder) from problem
    model = model.to(device, torch.float32).eval().requires_grad_(False)

    def generate(pixels: Tensor, count: int) -> list[str]:
        ids = model.generate(
            pixel_values=pixels.expand(count, -1, -1, -1), do_sample=True, top_p=TOP_P, max_new_tokens=MAX_TOKENS
        )
        texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    return _sampled(spec, weights_sha256(model), hugging_face_preprocess(folder), generate, languages, device)


def _sampled(
    spec: str,
    sha256: str,
    preprocess: PreprocessSpec,
    generate: Callable[[Tensor, int], list[str]],
    languages: tuple[str, ...],
    device: torch.device,
) -> Captioner:
    """A captioner that samples words from a model, with a random generator of its own for every picture."""
    language = "en" if "en" in languages else languages[0]

    def describe(i: int, image: Image.Image, count: int, seed: str) -> tuple[Caption, ...]:
        pixels = torch.from_numpy(normalize(to_pixels(image, preprocess), preprocess)[None]).to(device)  # (1, 3, S, S)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(random.Random(seed).getrandbits(63))
            texts = generate(pixels, count)
        return tuple(Caption(text, language, True, -1) for text in map(first_sentence, texts) if text)

    return Captioner(spec, sha256, (language,), describe)


def first_sentence(text: str) -> str:
    """A sampled text up to its first full stop, on one line: models ramble after it."""
    return " ".join(text.split()).partition(". ")[0].strip(" .")


CAPTIONERS: dict[str, Callable[[str, str, DataSet, tuple[str, ...], torch.device], Captioner]] = {
    "rewrite": _rewriter,
    "file": _from_file,
    "open_clip": _coca,
    "hf": _image_to_text,
}
