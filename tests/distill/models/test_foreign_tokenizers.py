"""Files of other models as a student's tokenizer: the teacher's own rows, and contradictions by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_edge.distill.models.foreign_tokenizers import read_tokenizer
from clip_edge.distill.models.pretrained import load_pretrained
from clip_edge.distill.models.spec import TokenizerSpec
from clip_edge.distill.models.tokenizers import clip_tokenizer, train_tokenizer
from clip_edge.errors import ArtifactError, ConfigError

TEXTS = ["a photo of a cat", "Two  DOGS!", "", "Äpfel 一只红色的猫 🙂", "word " * 30]
KINDS = {  # kind of teacher -> what its tokenizer.json does not say
    "hf:clip": {"pad": "</s>"},
    "hf:siglip": {"pad": "</s>"},
    "hf:chinese_clip": {},
    "hf:altclip": {},
    "open_clip:xlmr": {"clean": "whitespace"},
    "open_clip:siglip": {"clean": "canonicalize", "pad": "</s>"},
}


def spec_of(folder: Path, **said: Any) -> TokenizerSpec:
    return TokenizerSpec("trained", 300, str(folder / "tokenizer.json"), **said)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_are_those_of_the_teacher(kind: str, foreign_model: Callable[[str], Path]) -> None:
    folder = foreign_model(kind)
    theirs = load_pretrained(f"{kind.partition(':')[0]}:{folder}").tokenizer
    ours = read_tokenizer(spec_of(folder, **KINDS[kind]), theirs.spec.context_length)
    assert np.array_equal(ours(TEXTS), theirs(TEXTS))
    assert ours.spec == theirs.spec


def written(folder: Path, **changes: Any) -> Path:
    """A small tokenizer in a folder, with other parts."""
    table = json.loads(train_tokenizer(TEXTS, 300, 24).json_bytes) | changes
    (folder / "tokenizer.json").write_text(json.dumps(table))
    return folder


def test_what_vocab_train_wrote_stays_as_it_is(tmp_path: Path) -> None:
    made = train_tokenizer(TEXTS, 300, 24)
    (tmp_path / "tokenizer.json").write_bytes(made.json_bytes)
    read = read_tokenizer(spec_of(tmp_path, start="<bos>", end="<eos>", pad="<pad>", lowercase=True), 24)
    assert (read.json_bytes, read.spec) == (made.json_bytes, made.spec)


def test_a_file_without_frame_takes_that_of_the_specification(tmp_path: Path) -> None:
    folder = written(tmp_path, post_processor=None)
    with pytest.raises(ConfigError, match="which token ends a sentence"):
        read_tokenizer(spec_of(folder), 24)
    spec = read_tokenizer(spec_of(folder, end="<eos>"), 24).spec
    assert (spec.bos_id, spec.eos_id, spec.pad_id) == (None, 2, 0)
    assert read_tokenizer(spec_of(folder, start="<bos>", end="<eos>"), 24).spec.bos_id == 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"start": "<pad>"}, "the specification has `tokenizer.start` = '<pad>'; the file has '<bos>'"),
        ({"start": ""}, "the specification has `tokenizer.start` = ''; the file has '<bos>'"),
        ({"end": "<pad>"}, "the specification has `tokenizer.end` = '<pad>'; the file has '<eos>'"),
        ({"pad": "<mask>"}, "the file has no token `<mask>`"),
        ({"lowercase": False}, "the specification has `tokenizer.lowercase` = False; the file has True"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_tokenizer(spec_of(written(tmp_path), **said), 24)
    assert caught.value.what == message


def test_padding_that_the_file_says(tmp_path: Path) -> None:
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}
    padding |= {"pad_id": 2, "pad_token": "<eos>"}
    assert read_tokenizer(spec_of(written(tmp_path, padding=padding)), 24).spec.pad_id == 2
    with pytest.raises(ConfigError, match=r"`tokenizer\.pad` = '<pad>'; the file has '<eos>'"):
        read_tokenizer(spec_of(tmp_path, pad="<pad>"), 24)
    with pytest.raises(ConfigError, match="padding on the left"):
        read_tokenizer(spec_of(written(tmp_path, padding=padding | {"direction": "Left"})), 24)


def test_nobody_says_what_pads(tmp_path: Path) -> None:
    table = json.loads(train_tokenizer(TEXTS, 300, 24).json_bytes)
    vocab = {"<nothing>" if word == "<pad>" else word: index for word, index in table["model"]["vocab"].items()}
    folder = written(tmp_path, model=table["model"] | {"vocab": vocab})
    with pytest.raises(ConfigError, match="which token pads a sentence"):
        read_tokenizer(spec_of(folder), 24)


def test_frames_that_no_row_has(tmp_path: Path) -> None:
    same = train_tokenizer(TEXTS, 300, 24)
    frame = json.loads(same.json_bytes)["post_processor"]
    (bos, sentence, _), words = frame["single"], frame["special_tokens"]
    only_start = frame | {"single": [bos, sentence]}
    with pytest.raises(ArtifactError, match="frames it otherwise"):
        read_tokenizer(spec_of(written(tmp_path, post_processor=only_start)), 24)
    twice = frame | {"single": [bos, sentence, bos], "special_tokens": {"<bos>": words["<bos>"]}}
    with pytest.raises(ConfigError, match="`<bos>` both begins and ends a sentence"):
        read_tokenizer(spec_of(written(tmp_path, post_processor=twice)), 24)


def test_files_of_other_kinds_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing file"):
        read_tokenizer(spec_of(tmp_path), 24)
    (tmp_path / "tokenizer.json").write_bytes(clip_tokenizer().json_bytes)
    with pytest.raises(ArtifactError, match="expected at most 300 tokens; the file has 494") as caught:
        read_tokenizer(spec_of(tmp_path), 24)
    assert caught.value.hint == "give the size of the file as `tokenizer.vocab_size`"
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "apple": 3}
    folder = written(tmp_path, model={"type": "WordLevel", "vocab": words, "unk_token": "<pad>"})
    with pytest.raises(ArtifactError, match="of kind BPE, WordPiece, Unigram; found WordLevel"):
        read_tokenizer(spec_of(folder), 24)
    folder = written(tmp_path, model={"type": "Unigram", "vocab": [[word, -1.0] for word in words], "unk_id": None})
    with pytest.raises(ArtifactError, match="cannot read every sentence"):
        read_tokenizer(spec_of(folder), 24)


def test_what_describes_a_file_needs_one() -> None:
    with pytest.raises(ValueError, match="describe a `file`; there is none"):
        TokenizerSpec("trained", 300, end="</s>")
    spec = TokenizerSpec("trained", 300, "file.json", end="</s>")
    assert spec.of_folder() == dataclasses.replace(spec, file=None, end=None)
