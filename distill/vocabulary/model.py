"""A student with a smaller vocabulary: the same embeddings for the sentences that it was made for, to the bit."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_edge.console import SILENT, Console
from clip_edge.distill.models.checkpoint import LoadedStudent, save_student
from clip_edge.distill.models.spec import TokenizerSpec
from clip_edge.distill.models.student import Student, build_student
from clip_edge.distill.vocabulary.trim import Trimmed, trim_tokenizer
from clip_edge.errors import VerificationError
from clip_edge.files import new_folder

BATCH = 256
TABLE = "text.token_embedding.weight"


@dataclass(frozen=True)
class Report:
    """What a smaller vocabulary saves, and on how many sentences it was proved."""

    tokens_before: int
    tokens_after: int
    table_bytes_before: int
    table_bytes_after: int
    text_parameters_before: int
    text_parameters_after: int
    sentences: int
    different_rows: int
    tokens_used: dict[str, int]  # different tokens that each part of the corpus needs


def trim_student(
    loaded: LoadedStudent, corpus: Mapping[str, Sequence[str]], out: Path, *, console: Console = SILENT
) -> Report:
    """Write `loaded` with the tokens that `corpus` needs to the folder `out`, once both agree on all of its sentences.

    Raises:
        UsageError: `out` exists.
        CheckpointError: a kind of tokenizer that cannot be trimmed.
        VerificationError: a sentence is cut otherwise, or its embedding changed by a bit; nothing is written.
    """
    texts = list(dict.fromkeys(text for part in corpus.values() for text in part))
    trimmed = trim_tokenizer(loaded.tokenizer, texts)
    student = _smaller(loaded.student, trimmed)
    different = prove(loaded, student, trimmed, texts, console)
    used = {name: len({i for text in part for i in loaded.tokenizer.encode(text)}) for name, part in corpus.items()}
    before, after = loaded.student.text, student.text
    report = Report(
        tokens_before=loaded.tokenizer.vocab_size,
        tokens_after=trimmed.tokenizer.vocab_size,
        table_bytes_before=before.token_embedding.weight.nbytes,
        table_bytes_after=after.token_embedding.weight.nbytes,
        text_parameters_before=sum(value.numel() for value in before.parameters()),
        text_parameters_after=sum(value.numel() for value in after.parameters()),
        sentences=len(texts),
        different_rows=different,
        tokens_used=used,
    )
    provenance = loaded.info["provenance"] | {"vocabulary": dataclasses.asdict(report)}
    with new_folder(out) as folder:
        save_student(
            folder,
            student,
            trimmed.tokenizer,
            recipe_toml=(loaded.folder / "recipe.toml").read_text(),
            metrics=loaded.folder / "metrics.jsonl",
            provenance=provenance,
        )
        examples = loaded.folder / "examples.safetensors"
        if examples.is_file():
            shutil.copyfile(examples, folder / examples.name)
    return report


def prove(
    loaded: LoadedStudent, student: Student, trimmed: Trimmed, texts: Sequence[str], console: Console = SILENT
) -> int:
    """Compare ids and embeddings of every sentence; returns how many rows of ids differ from each other.

    Raises:
        VerificationError: one differs.
    """
    kept = np.array(trimmed.kept)
    rows: set[bytes] = set()
    with console.progress("compare", len(texts), "sentences") as meter, torch.inference_mode():
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            old, new = loaded.tokenizer(part), trimmed.tokenizer(part)
            changed = np.flatnonzero((kept[new] != old).any(axis=1))
            if len(changed):
                raise VerificationError(
                    f"a sentence would be cut otherwise: `{part[int(changed[0])][:200]}`",
                    hint="nothing was written; report this with the sentence and tokenizer.json",
                )
            before, after = (
                model.encode_text(torch.from_numpy(ids)) for model, ids in ((loaded.student, old), (student, new))
            )
            if not torch.equal(before, after):
                raise VerificationError(
                    f"embeddings changed by up to {float((before - after).abs().max()):.1e}",
                    hint="nothing was written; the text tower depends on ids beyond its table",
                )
            rows.update(row.tobytes() for row in old)
            meter.advance(len(part))
    return len(rows)


def _smaller(student: Student, trimmed: Trimmed) -> Student:
    """The same student with the kept rows of its table."""
    size = trimmed.tokenizer.vocab_size
    spec = dataclasses.replace(student.spec, tokenizer=TokenizerSpec("trimmed", size))
    small = build_student(spec, trimmed.tokenizer)
    state: dict[str, Any] = dict(student.state_dict())
    table: Tensor = state[TABLE]
    state[TABLE] = table[torch.tensor(trimmed.kept)]
    small.load_state_dict(state)
    small.licences.extend(student.licences)
    return small.eval()
