"""The manifest: what it holds, and that nothing can be changed, added, linked or pointed elsewhere unnoticed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_edge.bundle import MANIFEST, Bundle, FileEntry, Manifest, embedding_space, list_files
from clip_edge.cli import main
from clip_edge.errors import BundleError, ClipEdgeError, ConfigError, UsageError
from clip_edge.files import json_bytes, sha256_bytes
from clip_edge.preprocess import PreprocessSpec
from clip_edge.runtime.verify import verify
from clip_edge.schema import as_dict, build
from clip_edge.tokenizer import TextSpec


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as an attacker would: with a right hash of its own."""
    value = json.loads((bundle / MANIFEST).read_text())
    change(value)
    value["manifest_sha256"] = "0" * 64
    plain = json_bytes(value)
    (bundle / MANIFEST).write_bytes(plain.replace(b"0" * 64, sha256_bytes(plain).encode()))


def refused(bundle: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert caught.value.exit_code == 1
    return caught.value


def test_a_bundle_opens_and_says_what_would_be_lost(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    value = json.loads((tiny_bundle / MANIFEST).read_text())
    assert build(Manifest, value, where="test") == manifest
    assert value["image"]["preprocess"] == {
        "size": 32,
        "resize": "shortest",
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    assert value["image"]["channel_order"] == "RGB"
    assert value["image"]["crop"] == "center"
    assert set(value["text"]) == {"tokenizer", "causal", "pad_mask", "pooling", "activation"}
    assert set(value["text"]["tokenizer"]) == {"context_length", "vocab_size", "pad_id", "bos_id", "eos_id", "clean"}
    assert set(value["embedding"]) == {"space", "dim", "normalized", "logit_scale", "logit_bias"}


def test_the_manifest_states_its_own_hash(tiny_bundle: Path) -> None:
    data = (tiny_bundle / MANIFEST).read_bytes()
    stated = json.loads(data)["manifest_sha256"]
    assert sha256_bytes(data.replace(stated.encode(), b"0" * 64)) == stated


def test_every_file_is_listed(tiny_bundle: Path) -> None:
    names = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert set(list_files(tiny_bundle)) == names - {MANIFEST}
    assert set(Bundle.open(tiny_bundle).manifest.files) == names - {MANIFEST}


def test_one_flipped_byte_in_any_file_is_found_and_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            damaged = bytearray(whole)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            assert main(["verify", str(bundle), "--no-progress"]) == 1
            assert str(path) in capsys.readouterr().err
        path.write_bytes(whole)
    assert Bundle.open(bundle).manifest.name == "tiny"


def test_a_changed_file_has_an_exact_message(bundle: Path) -> None:
    path = bundle / "config.json"
    expected = sha256_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"clip", b"clap"))
    found = sha256_bytes(path.read_bytes())
    assert str(refused(bundle)) == (
        f"config.json was changed: SHA-256 {expected[:12]}… expected, {found[:12]}… found\n  in: {path}\n"
        "\nhint: copy the bundle again from where it was made, or export it again"
    )


def test_a_changed_manifest_has_an_exact_message(bundle: Path) -> None:
    path = bundle / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"name": "tiny"', b'"name": "tinz"', 1))
    assert str(refused(bundle)) == (
        f"manifest.json was changed: its hash differs from the one it states\n  in: {path}\n"
        "\nhint: copy the bundle again from where it was made, or export it again"
    )


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "onnx/../../x", "a\\..\\b", ""])
def test_a_path_may_not_leave_the_folder(bundle: Path, name: str) -> None:
    rewrite(bundle, lambda value: value["files"].update({name: {"sha256": "0" * 63 + "1", "bytes": 1}}))
    assert str(refused(bundle)) == (
        f"a path leaves the folder: `{name}`\n  in: {bundle}\n\nhint: the folder was tampered with"
    )


def test_verify_refuses_etc_passwd(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(bundle, lambda value: value["files"].update({"../../etc/passwd": {"sha256": "a" * 64, "bytes": 1}}))
    assert main(["verify", str(bundle)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        f"error: a path leaves the folder: `../../etc/passwd`\n  in: {bundle}\n\nhint: the folder was tampered with\n"
    )


def test_an_artifact_must_be_a_listed_file(bundle: Path) -> None:
    rewrite(bundle, lambda value: value["artifacts"][0].update(path="../../etc/passwd"))
    assert refused(bundle).what == "`artifacts` names a file that is not listed: `../../etc/passwd`"


def test_unlisted_files_are_refused(bundle: Path) -> None:
    (bundle / "onnx" / "extra.bin").write_bytes(b"x")
    assert refused(bundle).what == "a file that the manifest does not list: onnx/extra.bin"


def test_links_are_refused(bundle: Path) -> None:
    (bundle / "elsewhere").symlink_to("/etc/passwd")
    assert refused(bundle).what == "a link in the bundle: elsewhere"


def test_a_listed_file_may_not_be_a_link(bundle: Path, tmp_path: Path) -> None:
    (bundle / "config.json").rename(bundle / "onnx" / "config.json")
    (bundle / "config.json").symlink_to(bundle / "onnx" / "config.json")
    assert refused(bundle).what == "missing file: config.json"


def test_the_manifest_may_not_be_a_link(bundle: Path, tmp_path: Path) -> None:
    (bundle / MANIFEST).rename(tmp_path / "kept.json")
    (bundle / MANIFEST).symlink_to(tmp_path / "kept.json")
    assert refused(bundle).what == "a link in the bundle: manifest.json"


def test_missing_and_shortened_files_are_named(bundle: Path) -> None:
    path = bundle / "onnx" / "vision_model.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:100])
    assert refused(bundle).what == f"onnx/vision_model.onnx was changed: {size} bytes expected, 100 found"
    path.unlink()
    assert refused(bundle).what == "missing file: onnx/vision_model.onnx"


def test_unknown_keys_name_the_nearest(bundle: Path) -> None:
    rewrite(bundle, lambda value: value["embedding"].update(logit_scal=1.0))
    assert refused(bundle).what == "unknown key: `embedding.logit_scal` (did you mean `embedding.logit_scale`?)"


@pytest.mark.parametrize("schema", [2, None, "1", 0])
def test_another_schema_is_refused(bundle: Path, schema: object) -> None:
    rewrite(bundle, lambda value: value.update(schema=schema))
    assert refused(bundle).what == f"manifest schema 1 expected; found {schema!r}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v["files"]["config.json"].update(bytes=-1),
            "`files.config.json`: `bytes` must not be negative; found -1",
        ),
        (
            lambda v: v["files"]["config.json"].update(sha256="x"),
            "`files.config.json`: `sha256` must be 64 hexadecimal",
        ),
        (lambda v: v["embedding"].update(dim=0), "`embedding`: `dim` must lie in 1..65536; found 0"),
        (lambda v: v["embedding"].update(logit_scale=-1), "`embedding`: `logit_scale` must lie in 0..1e6; found -1.0"),
        (lambda v: v["image"].update(channel_order="BGR"), "`image.channel_order` must be one of RGB; found `BGR`"),
        (lambda v: v["artifacts"][0].update(precision="fp33"), "`artifacts[0].precision` must be one of fp32, fp16"),
        (lambda v: v["source"].update(provenance=nested(40)), "`source`: `provenance` is nested more than 16 deep"),
    ],
)
def test_wrong_values_are_refused(bundle: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    rewrite(bundle, change)
    assert refused(bundle).what.startswith(message)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_no_bundle_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, what in (("none", "no such bundle"), ("file", "a bundle is a folder; this is a file")):
        with pytest.raises(UsageError) as caught:
            Bundle.open(tmp_path / name)
        assert (caught.value.what, caught.value.exit_code) == (what, 2)
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").what == "missing file: manifest.json"


def test_what_is_read_is_what_was_hashed(bundle: Path) -> None:
    opened = Bundle.open(bundle, verify_hashes=False)
    assert opened.read("config.json", 1 << 20) == (bundle / "config.json").read_bytes()
    with pytest.raises(BundleError, match=r"config\.json is larger than 10 bytes"):
        opened.read("config.json", 10)
    with pytest.raises(BundleError, match=r"missing file: nothing\.json"):
        opened.read("nothing.json", 10)
    data = (bundle / "config.json").read_bytes()
    (bundle / "config.json").write_bytes(data.replace(b"clip", b"clap"))
    with pytest.raises(BundleError, match=r"config\.json was changed"):
        opened.read("config.json", 1 << 20)


def test_artifacts_are_found_by_tower_target_and_precision(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert manifest.artifact("text", ["onnx"]).path == "onnx/text_model.onnx"
    assert manifest.artifact("image", ["onnx"], "fp32").path == "onnx/vision_model.onnx"
    with pytest.raises(BundleError, match="the bundle has no image tower for target `coreml`"):
        manifest.artifact("image", ["coreml"])
    with pytest.raises(ConfigError, match="unknown precision: `fp3`") as caught:
        manifest.artifact("image", ["onnx"], "fp3")
    assert caught.value.hint == "did you mean `fp32`? known: fp32"


def test_the_embedding_space_changes_with_everything_that_moves_a_vector() -> None:
    text = TextSpec(16, 300, 0, 1, 2, "none")
    image = PreprocessSpec(32)
    base = embedding_space("w", {"depth": 1}, image, text, b"{}")
    others = [
        embedding_space("v", {"depth": 1}, image, text, b"{}"),
        embedding_space("w", {"depth": 2}, image, text, b"{}"),
        embedding_space("w", {"depth": 1}, dataclasses.replace(image, interpolation="bilinear"), text, b"{}"),
        embedding_space("w", {"depth": 1}, image, dataclasses.replace(text, clean="clip"), b"{}"),
        embedding_space("w", {"depth": 1}, image, text, b"{ }"),
    ]
    assert len({base, *others}) == 6
    assert base == embedding_space("w", {"depth": 1}, image, text, b"{}")


def test_the_manifest_survives_the_trip_through_bytes(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    data = manifest.to_bytes()
    assert data == (tiny_bundle / MANIFEST).read_bytes()
    assert as_dict(build(Manifest, json.loads(data), where="test")) == json.loads(data)


def test_a_file_entry_checks_itself() -> None:
    assert FileEntry("a" * 64, 0).bytes == 0
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        FileEntry("A" * 64, 0)


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.just("../../etc/passwd"),
    st.just("x" * 5000),
    st.just([]),
    st.just({}),
)


def mutate(value: Any, data: st.DataObject) -> Any:
    """Replace, remove or add one thing somewhere in a JSON value."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 9)) > 0:
        key = data.draw(st.sampled_from(sorted(value)))
        how = data.draw(st.sampled_from(["deeper", "deeper", "deeper", "remove", "rename"]))
        if how == "deeper":
            return {**value, key: mutate(value[key], data)}
        rest = {name: item for name, item in value.items() if name != key}
        return rest if how == "remove" else {**rest, data.draw(st.text(max_size=6)): value[key]}
    if isinstance(value, list) and value and data.draw(st.integers(0, 9)) > 0:
        index = data.draw(st.integers(0, len(value) - 1))
        return [*value[:index], mutate(value[index], data), *value[index + 1 :]]
    return data.draw(HOSTILE)


@settings(max_examples=200)
@given(data=st.data())
def test_a_mutated_manifest_gives_our_error_or_passes(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """With a right hash of its own, so that everything behind the hash is reached."""
    folder = tmp_path_factory.getbasetemp() / "mutated"
    if not folder.exists():
        shutil.copytree(tiny_bundle, folder)
    mutated = mutate(json.loads((tiny_bundle / MANIFEST).read_text()), data)
    if isinstance(mutated, dict):
        mutated["manifest_sha256"] = "0" * 64
    plain = json_bytes(mutated)
    (folder / MANIFEST).write_bytes(plain.replace(b"0" * 64, sha256_bytes(plain).encode(), 1))
    try:
        verify(folder, threads=1)
    except ClipEdgeError as error:
        str(error).encode("utf-8")


@settings(max_examples=200)
@given(data=st.data())
def test_random_bytes_in_a_bundle_give_our_error(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "scribbled"
    if not folder.exists():
        shutil.copytree(tiny_bundle, folder)
    names = sorted(path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file())
    name = data.draw(st.sampled_from(names))
    whole = bytearray((tiny_bundle / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        with pytest.raises(BundleError) as caught:
            Bundle.open(folder)
        assert caught.value.where is not None
    finally:
        shutil.copyfile(tiny_bundle / name, folder / name)
