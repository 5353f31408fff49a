"""Students as data: every file is valid, says how big it is, and mistakes are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_edge.distill.models.spec import list_students, load_spec, student_names
from clip_edge.distill.models.student import Student, count_parameters
from clip_edge.errors import ConfigError, ExitCode
from clip_edge.schema import as_dict
from clip_edge.tokenizer import TextSpec

# Millions of parameters, image + text: Apple's table. MobileCLIP2-S0 stands there with the text tower of
# MobileCLIP-S0 (42.4), but its published configuration and weights have the 12-layer tower.
PUBLISHED = {
    "mobileclip-s0": (11.4, 42.4),
    "mobileclip-s1": (21.5, 63.4),
    "mobileclip-s2": (35.7, 63.4),
    "mobileclip-b": (86.3, 63.4),
    "mobileclip2-s0": (11.4, 63.4),
    "mobileclip2-s2": (35.7, 63.4),
    "mobileclip2-s3": (125.1, 123.6),
    "mobileclip2-s4": (321.6, 123.6),
    "mobileclip2-b": (86.3, 63.4),
    "mobileclip2-l-14": (304.3, 123.6),
}
OPEN_CLIP = {
    "mobileclip-s1": ("MobileCLIP-S1", "datacompdr"),
    "mobileclip-s2": ("MobileCLIP-S2", "datacompdr"),
    "mobileclip-b": ("MobileCLIP-B", "datacompdr"),
    "mobileclip2-s0": ("MobileCLIP2-S0", "dfndr2b"),
    "mobileclip2-s2": ("MobileCLIP2-S2", "dfndr2b"),
    "mobileclip2-s3": ("MobileCLIP2-S3", "dfndr2b"),
    "mobileclip2-s4": ("MobileCLIP2-S4", "dfndr2b"),
    "mobileclip2-b": ("MobileCLIP2-B", "dfndr2b"),
    "mobileclip2-l-14": ("MobileCLIP2-L-14", "dfndr2b"),
}


def test_names() -> None:
    light = [f"lightclip-{tower}-t{depth}" for tower in ("mnv3", "rn18", "swin") for depth in (4, 8)]
    nano = ["nano-fastvit", "nano-light", "nano-lite0", "nano-s", "nano-sam", "nano-vit", "nano-xs"]
    merged = [f"sam-clip-{tower}" for tower in ("fastvit", "tinyvit", "vit-b")]
    assert student_names() == sorted([*PUBLISHED, *light, *merged, *nano])


@pytest.mark.parametrize("name", student_names())
def test_stated_parameters_are_those_of_the_model(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert spec.summary
    with torch.device("meta"):
        built = Student(spec, TextSpec(spec.text.context_length, spec.tokenizer.vocab_size, 0, 1, 2, "none"))
    assert count_parameters(built) == spec.parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_match_the_published_table(name: str) -> None:
    found = load_spec(name).parameters
    assert found is not None
    assert (found.image / 1e6, found.text / 1e6) == pytest.approx(PUBLISHED[name], rel=0.01)


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_preprocessing_is_that_of_the_published_weights(name: str) -> None:
    import open_clip

    model, tag = OPEN_CLIP[name]
    published = open_clip.get_pretrained_cfg(model, tag)
    ours = load_spec(name).image
    for key, value in (("mean", ours.mean), ("std", ours.std), ("interpolation", ours.interpolation)):
        assert value == published[key], key
    assert published["resize_mode"] == ours.resize
    assert open_clip.get_model_config(model)["vision_cfg"]["image_size"] == ours.size


def test_listing_needs_no_torch() -> None:
    code = "import sys; from clip_edge.distill.models.spec import list_students; list_students()"
    code += "; print(sorted({'torch', 'timm', 'open_clip'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"
    assert len(list_students()) == len(student_names())


def test_unknown_student_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load_spec("nano-lite")
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        "unknown student: `nano-lite`\n\nhint: did you mean `nano-lite0`? known: " + ", ".join(student_names())
    )


@pytest.mark.parametrize("name", ["../students/nano-s", "", "nano-s\x00"])
def test_names_are_not_paths(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown student"):
        load_spec(name)


def written(folder: Path, **changes: Any) -> Path:
    """nano-vit with some values changed; `image.size=…` reaches inside."""
    table = as_dict(load_spec("nano-vit"))
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = table
        for parent in parents:
            place = place[parent]
        place[last] = value
    path = folder / "mine.json"
    path.write_text(json.dumps(table))
    return path


def test_own_file(tmp_path: Path) -> None:
    assert load_spec(written(tmp_path, name="mine", embed_dim=64)).embed_dim == 64
    assert load_spec(str(written(tmp_path, name="mine"))).name == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dmi": 3}, "unknown key: `embed_dmi` (did you mean `embed_dim`?)"),
        ({"text__head": 3}, "unknown key: `text.head` (did you mean `text.heads`?)"),
        ({"text__heads": 3}, "`text`: `width` must be a multiple of `heads`; found 256 and 3"),
        ({"text__depth": 10**6}, "`text`: `depth` must lie in 1..256; found 1000000"),
        ({"embed_dim": "256"}, "`embed_dim` must be a whole number; found '256'"),
        ({"text__pool": "last"}, "`text.pool` must be one of eos, mean; found `last`"),
        ({"image__tower": "hf-hub:someone/model"}, "`image`: `tower` must be timm:NAME; found `hf-hub:someone/model`"),
        ({"image__args": {"pretrained": True}}, "`image`: `args.pretrained` is not an architecture; remove it"),
        (
            {"image__args": {"checkpoint_path": "x"}},
            "`image`: `args.checkpoint_path` is not an architecture; remove it",
        ),
        ({"image__args": {"embed_dim": 10**9}}, "`image`: `args.embed_dim` is out of range: 1000000000"),
        (
            {"image__args": {"x": {"a": 1}}},
            "`image`: `args.x` must be a number, a word or a short list of them",
        ),
        ({"tokenizer__kind": "clip"}, "`tokenizer`: `vocab_size` of CLIP's tokenizer is 49408; found 4096"),
        ({"name": "../x"}, "`name` must be made of a-z, 0-9, `.`, `_` and `-`; found `../x`"),
        ({"logit_scale_init": 0}, "`logit_scale_init` must lie in 0..10000; found 0.0"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        load_spec(path)
    assert str(caught.value) == f"{message}\n  in: {path}\n\nhint: all keys: docs/students.md"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing file: mine\.json"):
        load_spec(tmp_path / "mine.json")
