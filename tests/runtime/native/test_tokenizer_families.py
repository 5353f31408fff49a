"""Tokenizers of every family that compact CLIPs use: the native ids against those of the package `tokenizers`."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer

from clip_edge.tokenizer import TextSpec, Tokenizer

from .test_tokenizer_parity import corpus, differing, names

sentencepiece = pytest.importorskip("sentencepiece")
MARK = "\u2581"
ODD = ["  <mask> a", " \u0301x", "\u200bab", "  a b", "\r\n a", "a\u0301 ", "the The HA ha<mask>  x "]
ODD += ["\u0600a\u0301", "각\u11a8\u0301"]  # what stays together in a grapheme cluster
SPEC = TextSpec(64, 1 << 20, pad_id=0, bos_id=1, eos_id=2, clean="none")


@lru_cache(maxsize=4)
def trained_model(folder: Path, kind: str, **options: Any) -> str:
    """A SentencePiece model of emoji names in fourteen languages; the same options give the same file."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(names()),
        model_writer=model,
        model_type=kind,
        vocab_size=3000,
        num_threads=1,
        minloglevel=2,
        character_coverage=0.995,  # so that some characters are unknown
        hard_vocab_limit=False,
        **options,
    )
    path = folder / f"{kind}-{'-'.join(map(str, options.values()))}.model"
    path.write_bytes(model.getvalue())
    return str(path)


def t5(folder: Path) -> str:
    """SigLIP's: unigram, NFKC as a compiled map, `<extra_id>` and the like as added tokens."""
    from transformers import T5Tokenizer
    from transformers.convert_slow_tokenizer import T5Converter

    model = trained_model(folder, "unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return str(T5Converter(T5Tokenizer(model, legacy=False)).converted().to_str())


def xlm_roberta(folder: Path) -> str:
    """Of multilingual CLIPs: unigram, with `<mask>` that strips the space before it."""
    from transformers import XLMRobertaTokenizer
    from transformers.convert_slow_tokenizer import XLMRobertaConverter

    model = trained_model(folder, "unigram", unk_id=0, bos_id=1, eos_id=2)
    return str(XLMRobertaConverter(XLMRobertaTokenizer(model)).converted().to_str())


def unigram_with_bytes(folder: Path) -> str:
    """Unigram where unknown characters are spelt as bytes."""
    table = json.loads(xlm_roberta(folder))
    vocabulary = table["model"]["vocab"]
    vocabulary += [[f"<0x{byte:02X}>", -30.0] for byte in range(256)]
    table["model"]["byte_fallback"] = True
    table["added_tokens"] = []
    return json.dumps(table)


def gemma(folder: Path) -> str:
    """SigLIP 2's: BPE of characters, unknown ones as bytes, spaces kept."""
    from transformers import GemmaTokenizer
    from transformers.convert_slow_tokenizer import GemmaConverter

    options = {"byte_fallback": True, "add_dummy_prefix": False, "remove_extra_whitespaces": False}
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    model = trained_model(folder, "bpe", normalization_rule_name="identity", **options, **ids)
    return str(GemmaConverter(GemmaTokenizer(model)).converted().to_str())


def bert(folder: Path) -> str:
    """Chinese-CLIP's: WordPiece, every Chinese character a word."""
    return _bert(True)


def bert_cased(folder: Path) -> str:
    """The same, with case and accents."""
    return _bert(False)


@lru_cache(maxsize=2)
def _bert(lowercase: bool) -> str:
    encoder = BertWordPieceTokenizer(lowercase=lowercase)
    encoder.train_from_iterator(names(), vocab_size=4000, show_progress=False)
    return str(encoder.to_str())


FAMILIES = [t5, xlm_roberta, unigram_with_bytes, gemma, bert, bert_cased]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*corpus(20_000), *ODD]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers warns of every slow tokenizer
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_equal(library: Any, folder: Path, texts: list[str], family: Callable[[Path], str]) -> None:
    reference = Tokenizer(family(folder).encode(), SPEC)
    assert differing(library.tokenizer(reference.json_bytes, SPEC), reference, texts) == []


NORMALIZERS: list[dict[str, Any]] = [
    *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt")),
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Prepend", "prepend": MARK},
    {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    {"type": "Replace", "pattern": {"String": "a"}, "content": ""},
    {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": False,
        "strip_accents": True,
        "lowercase": False,
    },
]
SPLITTERS: list[dict[str, Any]] = [
    *(
        {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": cut}
        for scheme in ("always", "first", "never")
        for cut in (True, False)
    ),
    {"type": "WhitespaceSplit"},
    {"type": "BertPreTokenizer"},
    *(
        {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
        for pattern in ({"String": " "}, {"Regex": "[\\p{L}]+"}, {"String": MARK})
        for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
        for invert in (False, True)
    ),
]


def mixed(source: random.Random, table: dict[str, Any], map_: dict[str, Any]) -> bytes:
    """The model of a tokenizer file, with other parts around it."""
    normalizers = [source.choice([*NORMALIZERS, map_, map_]) for _ in range(source.randrange(4))]
    splitters = [source.choice(SPLITTERS) for _ in range(source.randrange(3))]
    vocabulary = table["model"]["vocab"]
    known = set(vocabulary) if isinstance(vocabulary, dict) else {token for token, _ in vocabulary}
    strips = source.random() < 0.5
    contents = ["<mask>", "ha", "HA", "é", "the"] + ([] if strips else [" x ", "\n\n", MARK * 2])
    added = [content for content in source.sample(contents, source.randrange(4)) if content not in known]
    flags = ("lstrip", "rstrip", "normalized", "special")
    tokens = [
        {"id": len(vocabulary) + index, "content": content, "single_word": False}
        | {name: source.random() < 0.5 and (strips or name not in flags[:2]) for name in flags}
        for index, content in enumerate(added)
    ]
    parts = {
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters} if splitters else None,
        "added_tokens": tokens,
        "post_processor": None,
    }
    return json.dumps(table | parts).encode()


@pytest.mark.filterwarnings("ignore")
def test_parts_in_any_order(library: Any, folder: Path) -> None:
    source = random.Random(11)
    tables = [json.loads(family(folder)) for family in (xlm_roberta, gemma, bert)]
    map_ = next(item for item in tables[0]["normalizer"]["normalizers"] if item["type"] == "Precompiled")
    short = [text for text in corpus(2000) if len(text) < 300]
    for _ in range(60):
        reference = Tokenizer(mixed(source, source.choice(tables), map_), SPEC)
        try:
            native = library.tokenizer(reference.json_bytes, SPEC)
        except AssertionError as problem:
            if "added token" in str(problem):  # that is white space beside one that strips it, or empty
                continue
            raise
        found = differing(native, reference, source.sample(short, 100) + ODD)
        assert found == [], json.loads(reference.json_bytes) | {"model": None}


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace", "clip"])
def test_cleaning_and_rows_without_bos(library: Any, clean: Any) -> None:
    spec = TextSpec(16, 1 << 20, pad_id=0, bos_id=None, eos_id=2, clean=clean)
    reference = Tokenizer(_bert(False).encode(), spec)
    strings = [*corpus(600), "It's a_b-c!  #TAG &amp;amp; x"]
    assert differing(library.tokenizer(reference.json_bytes, spec), reference, strings) == []


def refusal(library: Any, table: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        library.tokenizer(json.dumps(table | changes).encode(), SPEC)
    return str(caught.value).splitlines()[0]


def test_what_is_not_supported_is_named(library: Any) -> None:
    table = json.loads(_bert(True))
    model, added = table["model"], table["added_tokens"][0]
    of_type = [("normalizer", "normalizer"), ("pre_tokenizer", "pre-tokenizer"), ("post_processor", "post-processor")]
    for key, name in [*of_type, ("model", "model")]:
        part = refusal(library, table, **{key: {"type": "Odd", "vocab": {}}})
        assert part.startswith(f"tokenizer.json: the {name} `Odd` is not supported")
    alone = refusal(library, table, added_tokens=[added | {"single_word": True}])
    assert alone == "tokenizer.json: `single_word` of the added token `[PAD]` is not supported"
    moved = refusal(library, table, added_tokens=[added | {"id": 9}])
    assert moved == "tokenizer.json: the added token `[PAD]` must have the id 0; found 9"
    levels = refusal(library, table, pre_tokenizer={"type": "ByteLevel"})
    assert levels == "tokenizer.json: ByteLevel before a model of type `WordPiece` is not supported"
    scores = refusal(library, table, added_tokens=[], model={"type": "Unigram", "vocab": [["a", "b"]]})
    assert scores == "tokenizer.json: a number expected; found a string"
    for key, value in (("dropout", 0.1), ("continuing_subword_prefix", "##"), ("ignore_merges", True)):
        whole: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0}, "merges": [], key: value}
        assert refusal(library, table, model=whole) == f"tokenizer.json: `{key}` of a BPE model is not supported"
    huge = model | {"vocab": {"a" * 513: 0}}
    assert refusal(library, table, model=huge) == "tokenizer.json: a token may have 512 bytes; found 513"


@pytest.mark.parametrize("charsmap", ["", "A", "AAAA", "////", "BAAAAAAAAAA", "CAAAAAAAAAAAAAAA/w=="])
def test_damaged_maps_are_refused(library: Any, charsmap: str) -> None:
    part = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    assert "`precompiled_charsmap` is" in refusal(library, json.loads(_bert(True)), normalizer=part)


def test_a_map_that_points_outside_itself_is_noticed(library: Any) -> None:
    part = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAD///8="}  # one unit, its children far away
    native = library.tokenizer(json.dumps(json.loads(_bert(True)) | {"normalizer": part}).encode(), SPEC)
    with pytest.raises(AssertionError, match="`precompiled_charsmap` is damaged"):
        native(b"a")
    np.testing.assert_array_equal(native(b""), [1, 2] + [0] * 62)
