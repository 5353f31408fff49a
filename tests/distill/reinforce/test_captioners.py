"""Synthetic captions: true, new, the same for the same seed, wherever they come from."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clip_edge.distill.data.readers import open_dataset
from clip_edge.distill.reinforce.augment import colour_chart
from clip_edge.distill.reinforce.captioners import first_sentence, load_captioner, read_captions
from clip_edge.distill.reinforce.rewrite import SceneFacts, Thing, rewrite, scene_facts
from clip_edge.errors import CheckpointError, DataError, UsageError

CPU = torch.device("cpu")
NAMES = {"a": {"en": "red apple", "zh": "苹果"}, "b": {"en": "cat", "zh": "猫"}, "c": {"en": "key", "zh": "钥匙"}}


def facts(*ids: str, boxes: tuple[tuple[int, int, int, int], ...] | None = None, **captions: list[str]) -> SceneFacts:
    places = boxes or tuple((i * 30, 0, 20, 20) for i in range(len(ids)))
    things = tuple(Thing(id_, box, 100) for id_, box in zip(ids, places, strict=True))
    return SceneFacts(things, {"colour": "blue", "pattern": "dots"}, captions)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("ids", ["a", "ab", "abc"])
def test_rewritten_captions_are_new_and_true(ids: str, lang: str) -> None:
    scene = facts(*ids)
    known = list(rewrite(scene, NAMES, lang, 3, random.Random(9)))
    scene = facts(*ids, **{lang: known})
    found = rewrite(scene, NAMES, lang, 2, random.Random(1))
    assert len(set(found)) == 2
    assert not set(found) & set(known)
    assert found == rewrite(scene, NAMES, lang, 2, random.Random(1))
    for text in found:
        for id_ in ids:
            assert NAMES[id_][lang] in text


def test_relations_in_rewritten_captions_hold() -> None:
    """The apple is left of the cat: no sentence may say otherwise, and some say so."""
    texts = {text for seed in range(40) for text in rewrite(facts("a", "b"), NAMES, "en", 4, random.Random(seed))}
    assert any("red apple to the left of cat" in text for text in texts)
    assert any("cat to the right of red apple" in text for text in texts)
    assert not any(re.search("cat to the left|red apple to the right|above|below", text) for text in texts)
    assert all("blue" in text or "on" not in text.split() for text in texts)


def test_the_built_in_scenes_are_rewritten(tiny_emoji: Path) -> None:
    dataset = open_dataset(tiny_emoji)
    captioner = load_captioner("rewrite", dataset, dataset.langs, CPU)
    for i in range(len(dataset)):
        found = captioner.describe(i, Image.new("RGB", (1, 1)), 2, f"seed {i}")
        assert [caption.language for caption in found] == [lang for lang in dataset.langs for _ in range(2)]
        assert all(caption.synthetic for caption in found)
        known = {text for texts in dataset.sample(i).captions.values() for text in texts}
        assert not known & {caption.text for caption in found}
        assert len(scene_facts(dataset, i).objects) >= 1


def test_captions_from_json_lines_and_tables(tmp_path: Path) -> None:
    lines = tmp_path / "c.jsonl"
    lines.write_text('{"key": "1", "captions": ["one  two", ""]}\n\n{"key": "2", "captions": {"de": ["drei"]}}\n')
    found = read_captions(lines, "en")
    assert [(one.language, one.text) for one in found["1"]] == [("en", "one two")]
    assert [(one.language, one.text) for one in found["2"]] == [("de", "drei")]
    table = tmp_path / "c.tsv"
    table.write_text("key\tcaption\tlanguage\n1\tone two\ten\n2\tdrei\tde\n")
    assert read_captions(table, "en") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"key": "1", "captions": ["a"]}\n{"key": 1}\n', "line 2 is not {'key': ..., 'captions': [...]}: 'captions'"),
        (
            '{"key": 1, "captions": ["a"]}\n',
            "line 1 is not {'key': ..., 'captions': [...]}: keys and captions are strin",
        ),
        ("[" * 100_000, "line 1 is not {'key': ..., 'captions': [...]}: "),
        ("\n", "no captions in this file"),
    ],
)
def test_damaged_files_of_captions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as problem:
        read_captions(path, "en")
    assert str(problem.value).startswith(message)


def test_a_table_without_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(DataError, match=r"^no columns key and caption; found a, b\n"):
        read_captions(tmp_path / "c.tsv", "en")


def test_the_first_sentence_is_kept() -> None:
    assert first_sentence(" a cat on\n a mat . and more . ") == "a cat on a mat"
    assert first_sentence("a 1.5 m tall man") == "a 1.5 m tall man"
    assert first_sentence(".") == ""


def coca(folder: Path) -> Path:
    """A tiny CoCa in open_clip's folder layout."""
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CoCa(**config)
    with torch.no_grad():
        for value in model.parameters():  # open_clip leaves some as the memory happened to be
            value.normal_(std=0.1)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    words = {"model_cfg": {**config, "custom_text": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(words))
    return folder


def blip(folder: Path) -> Path:
    """A tiny image-to-text model as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = ["[PAD]", "[UNK]", "[BOS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = transformers.BlipConfig(
        text_config={**tower, "vocab_size": len(words), "encoder_hidden_size": 32, **ids},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
    )
    torch.manual_seed(0)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    values = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(("scheme", "make"), [("open_clip", coca), ("hf", blip)])
def test_models_describe_pictures(scheme: str, make, tmp_path: Path, shards: Path) -> None:
    """Random weights write nonsense; what is tested is that words come, and the same ones for the same seed."""
    captioner = load_captioner(f"{scheme}:{make(tmp_path / 'model')}", open_dataset(shards), ("",), CPU)
    picture = colour_chart()
    before = torch.get_rng_state()
    found = captioner.describe(0, picture, 3, "seed/key")
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert len({caption.text for caption in found}) == 3
    assert all(caption.synthetic and caption.language == "" for caption in found)
    assert not any("<" in caption.text or "[" in caption.text for caption in found)
    torch.manual_seed(123)
    assert captioner.describe(5, picture, 3, "seed/key") == found
    assert captioner.describe(0, picture, 3, "another") != found
    assert len(captioner.sha256) == 64


def test_a_model_without_words_is_refused(tiny_open_clip: Path, shards: Path) -> None:
    with pytest.raises(UsageError) as problem:
        load_captioner(f"open_clip:{tiny_open_clip}", open_dataset(shards), ("",), CPU)
    assert str(problem.value).startswith(f"`open_clip:{tiny_open_clip}` writes no captions\n\nhint: name a CoCa model")


def test_a_folder_that_is_no_captioner_is_refused(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UsageError, match=r"^no Hugging Face model in "):
        load_captioner(f"hf:{tmp_path}", open_dataset(shards), ("",), CPU)
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(CheckpointError, match=r"^transformers cannot load this captioner: "):
        load_captioner(f"hf:{tmp_path}", open_dataset(shards), ("",), CPU)
