"""Vocabularies of the sizes of large models, made without a network."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from clip_edge.distill.data.captions import languages
from clip_edge.distill.vocabulary.corpus import builtin_sentences

LEARNT = 12_000  # pieces that the built-in captions in all languages give
MARK = "\u2581"
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "".join(map(chr, range(0x0621, 0x064B))),  # Arabic
)


def unigram(rows: int) -> bytes:
    """A Unigram of `rows` tokens: `<s> <pad> </s> <unk>`, pieces learnt from the built-in captions in all languages,
    the 6,763 ideographs of GB 2312, the 2,350 syllables of KS X 1001, and made-up words that are less likely than all.
    """
    encoder = tokenizers.Tokenizer(models.Unigram())
    encoder.normalizer, encoder.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=LEARNT, special_tokens=special, unk_token="<unk>", show_progress=False)
    texts = [text for lang in sorted(languages()) for text in builtin_sentences(lang)]
    encoder.train_from_iterator(texts, trainer)
    table = json.loads(encoder.to_str())
    vocab: list[list[object]] = table["model"]["vocab"]
    known = {str(piece) for piece, _ in vocab}
    lowest = min(float(str(score)) for _, score in vocab)
    for piece in [*_characters("gb2312", 0xF8), *_characters("euc_kr", 0xC9)]:
        if piece not in known:
            known.add(piece)
            vocab.append([piece, lowest - 1])
    source = random.Random(0)
    alphabets = [*ALPHABETS, "".join(_characters("gb2312", 0xD8))]
    while len(vocab) < rows:
        alphabet = source.choice(alphabets)
        piece = source.choice((MARK, "")) + "".join(source.choices(alphabet, k=source.randint(2, 8)))
        if piece not in known:
            known.add(piece)
            vocab.append([piece, lowest - 2])
    table["post_processor"] = json.loads(
        processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]).__getstate__()
    )
    return json.dumps(table, ensure_ascii=False).encode()


def word_piece(vocab_txt: Path) -> bytes:
    """A tokenizer file of a BERT's vocab.txt."""
    words = {word: index for index, word in enumerate(vocab_txt.read_text(encoding="utf-8").rstrip("\n").split("\n"))}
    encoder = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    encoder.normalizer, encoder.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    frame = [(word, words[word]) for word in ("[CLS]", "[SEP]")]
    encoder.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return str(encoder.to_str()).encode()


def _characters(encoding: str, end: int) -> list[str]:
    """The characters of a national standard, rows 0xB0 up to `end` of its double bytes."""
    pairs = (bytes((row, cell)) for row in range(0xB0, end) for cell in range(0xA1, 0xFF))
    return [char for pair in pairs if (char := pair.decode(encoding, "ignore"))]
