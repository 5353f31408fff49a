"""Student folders: what is written is read back, and what was damaged is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_edge.distill.models.checkpoint import LoadedStudent, load_student, save_student
from clip_edge.distill.models.spec import Licence, load_spec
from clip_edge.distill.models.student import Student, build_student, count_parameters
from clip_edge.distill.models.tokenizers import train_tokenizer
from clip_edge.errors import ArtifactError, CheckpointError, ExitCode, UsageError
from clip_edge.tokenizer import Tokenizer

EXAMPLES = {"image.000": np.zeros((4, 5, 3), np.uint8), "texts": np.frombuffer(b'["a cat"]', np.uint8)}


def write(folder: Path, student: Student, tokenizer: Tokenizer) -> Path:
    folder.mkdir(parents=True)
    save_student(
        folder,
        student,
        tokenizer,
        recipe_toml='loss = "clip"\n',
        metrics=None,
        provenance={"recipe": "clip", "seed": 1},
        examples=EXAMPLES,
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Student, Tokenizer]:
    spec = load_spec("nano-vit")
    tokenizer = train_tokenizer(["a red apple", "两只猫"], spec.tokenizer.vocab_size, spec.text.context_length)
    student = build_student(spec, tokenizer).eval()
    student.licences.append(Licence("image tower", "test licence", research_only=True))
    return write(tmp_path_factory.mktemp("made") / "student", student, tokenizer), student, tokenizer


@pytest.fixture
def copy(made: tuple[Path, Student, Tokenizer], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "student"))


def test_round_trip(made: tuple[Path, Student, Tokenizer]) -> None:
    folder, student, tokenizer = made
    loaded = load_student(folder)
    assert isinstance(loaded, LoadedStudent)
    assert not loaded.student.training
    pixels, ids = torch.rand(2, 3, 64, 64), torch.from_numpy(tokenizer(["a red apple", "猫"]))
    with torch.no_grad():
        assert torch.equal(loaded.student.encode_image(pixels), student.encode_image(pixels))
        assert torch.equal(loaded.student.encode_text(ids), student.encode_text(ids))
    assert loaded.tokenizer.json_bytes == tokenizer.json_bytes
    assert loaded.preprocess == student.spec.image.preprocess()
    assert loaded.spec.parameters == count_parameters(student)


def test_licences_and_provenance_travel(made: tuple[Path, Student, Tokenizer], tmp_path: Path) -> None:
    loaded = load_student(made[0])
    again = load_student(write(tmp_path / "again", loaded.student, loaded.tokenizer))
    assert again.info["research_only"] is True
    assert again.info["licences"] == [
        {"applies_to": "image tower", "name": "test licence", "research_only": True},
    ]
    assert again.info["provenance"] == {"recipe": "clip", "seed": 1}


def test_files(made: tuple[Path, Student, Tokenizer]) -> None:
    assert sorted(path.name for path in made[0].iterdir()) == [
        "examples.safetensors",
        "metrics.jsonl",
        "model.json",
        "model.safetensors",
        "preprocess.json",
        "recipe.toml",
        "tokenizer.json",
    ]
    assert (made[0] / "recipe.toml").read_text() == 'loss = "clip"\n'


def test_same_student_same_bytes(made: tuple[Path, Student, Tokenizer], tmp_path: Path) -> None:
    folder, student, tokenizer = made
    again = write(tmp_path / "again", student, tokenizer)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_run_folder_is_followed(copy: Path) -> None:
    assert load_student(copy.parent).folder == copy


def test_metrics_are_copied(made: tuple[Path, Student, Tokenizer], tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n')
    (tmp_path / "s").mkdir()
    save_student(tmp_path / "s", made[1], made[2], recipe_toml="", metrics=tmp_path / "log", provenance={})
    assert (tmp_path / "s" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not (tmp_path / "s" / "examples.safetensors").exists()


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_student(tmp_path / "nothing")
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"no such folder: {tmp_path / 'nothing'}\n\nhint: name the `student` folder inside a finished run"
    )


def test_not_a_student_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a student folder: it has no model\.json"):
        load_student(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "preprocess.json", "tokenizer.json"])
def test_missing_files_are_named(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtifactError) as caught:
        load_student(copy)
    assert caught.value.what == f"missing file: {name}"


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(schema=2), "expected model.json of schema 1; found 2"),
        (lambda t: t.update(licenses=[]), "unknown key: `licenses` (did you mean `licences`?)"),
        (lambda t: t.pop("provenance"), "missing key: `provenance`"),
        (
            lambda t: t["student"]["text"].update(dept=1),
            "unknown key: `student.text.dept` (did you mean `student.text.depth`?)",
        ),
        (lambda t: t["embedding"].update(dim=3), "model.json contradicts itself: `name` or `embedding`"),
        (
            lambda t: t["student"]["image"]["args"].update(pretrained=True),
            "`student.image`: `args.pretrained` is not an architecture; remove it",
        ),
        (
            lambda t: t["student"]["image"].update(tower="timm:no_such_tower"),
            "unknown timm model: `no_such_tower`",
        ),
        (
            lambda t: t["text"].update(context_length=16),
            "expected a tokenizer of context 32 with 4096 ids; found 16 with 4096",
        ),
        (lambda t: t["student"]["image"].update(size=32), "preprocess.json and model.json describe different pictures"),
    ],
)
def test_changed_model_json(change: Callable[[Any], object], message: str, copy: Path) -> None:
    edit_json(copy / "model.json", change)
    with pytest.raises(CheckpointError) as caught:
        load_student(copy)
    assert caught.value.what == message
    assert caught.value.where is not None
    assert Path(caught.value.where).parent == copy


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000, b'{"a":1,"a":2}', b'{"a":NaN}'])
@pytest.mark.parametrize("name", ["model.json", "preprocess.json"])
def test_bad_json(name: str, data: bytes, copy: Path) -> None:
    (copy / name).write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_student(copy)
    assert caught.value.where == str(copy / name)


def test_huge_architecture_takes_no_memory(copy: Path) -> None:
    """model.json asks for 100 GB; the header of the weights says otherwise before anything is allocated."""
    edit_json(copy / "model.json", lambda t: t["student"]["text"].update(width=16384, heads=4, depth=16))
    with pytest.raises(CheckpointError, match="the weights do not fit the student"):
        load_student(copy)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s.pop("logit_scale"), "missing: logit_scale"),
        (lambda s: s.update(extra=torch.zeros(1)), "surplus: extra"),
        (
            lambda s: s.update({"text.norm.bias": torch.zeros(3)}),
            "shape of text.norm.bias: expected (256,), found (3,)",
        ),
    ],
)
def test_changed_weights(change: Callable[[dict[str, torch.Tensor]], object], line: str, copy: Path) -> None:
    edit_weights(copy, change)
    with pytest.raises(CheckpointError) as caught:
        load_student(copy)
    assert caught.value.what == f"the weights do not fit the student, 1 difference:\n  {line}"
    assert caught.value.where == str(copy / "model.safetensors")


def test_weights_that_are_not_numbers(copy: Path) -> None:
    edit_weights(copy, lambda s: s["text.norm.bias"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"the weights hold NaN or infinity: text\.norm\.bias"):
        load_student(copy)


@pytest.mark.parametrize("kept", [0, 7, 100, 50_000, -1])
def test_truncated_weights(kept: int, copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a weight file, or a damaged one"):
        load_student(copy)


def test_pickled_weights_under_another_name(copy: Path) -> None:
    torch.save({"a": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a weight file, or a damaged one"):
        load_student(copy)
