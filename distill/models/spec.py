"""Students as data: what a file in `students/` may say, checked. Loads no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clip_edge.errors import ConfigError, unknown_name
from clip_edge.files import read_json
from clip_edge.preprocess import PreprocessSpec
from clip_edge.schema import build

STUDENTS = Path(__file__).parent / "students"

# Arguments that would make timm read files or a network, or change what a trunk returns.
REFUSED_ARGS = {
    *("cache_dir", "checkpoint_path", "features_only", "num_classes", "out_indices", "pretrained", "pretrained_cfg"),
    *("pretrained_cfg_overlay", "pretrained_strict", "scriptable", "exportable", "no_jit"),
}
MAX_WIDTH = 1 << 14  # wider than any tower in use; a larger number is a mistake or an attack on memory
MAX_DEPTH = 256


@dataclass(frozen=True)
class HeadSpec:
    """A feature map and the CLIP head on it, instead of pooled features and a projection (`heads.py`, SAM-CLIP).

    `levels` are the trunk's feature levels that make the map, counted from 0, deepest last; the first gives its
    resolution. `width` is that of the map and of the `depth` transformer layers of the head, whose perceptron into
    text space is `image.hidden` wide.
    """

    levels: tuple[int, ...]
    width: int = 256
    depth: int = 3
    heads: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if not self.levels or sorted(set(self.levels)) != list(self.levels) or not 0 <= self.levels[0] <= MAX_DEPTH:
            raise ValueError(f"`levels` must name feature levels in rising order; found {list(self.levels)}")
        _check_range("width", self.width, 1, MAX_WIDTH)
        _check_range("depth", self.depth, 0, MAX_DEPTH)
        _check_range("heads", self.heads, 1, self.width)
        if self.width % self.heads:
            raise ValueError(f"`width` must be a multiple of `heads`; found {self.width} and {self.heads}")


@dataclass(frozen=True)
class MaskSpec:
    """The mask head (`masks.py`, after SAM): outlines for points and boxes, from the map of `image.head`."""

    width: int = 128
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        _check_range("width", self.width, 8, MAX_WIDTH)
        _check_range("depth", self.depth, 1, MAX_DEPTH)
        _check_range("heads", self.heads, 1, self.width)
        if self.width % 8 or self.width % self.heads:
            raise ValueError(f"`width` must be a multiple of 8 and of `heads`; found {self.width} and {self.heads}")


@dataclass(frozen=True)
class ImageSpec:
    """The image tower: a timm trunk that pools to (B, F), then a projection to (B, D).

    `tower` is `timm:NAME` and `args` go to timm as they stand; `levels` keeps only that many of its feature levels
    (each halves the resolution) and averages over the last one. `stem_padding` is how many pixels the first convolution
    pads by, where that is not timm's number (Apple's MobileCLIP-B: 1). `projection` is `"linear"`, `"mlp"` (two layers,
    `hidden` wide, GELU between) or `"none"`; with `head` the trunk gives a feature map and a CLIP head replaces the
    projection. `init` names weights that the trunk starts from (`weights.LOADERS`). `size` to `std` say how a
    picture becomes its input (`PreprocessSpec`).
    """

    tower: str
    size: int
    args: dict[str, Any] = field(default_factory=dict)
    levels: int | None = None
    stem_padding: int | None = None
    resize: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    projection: Literal["linear", "mlp", "none"] = "linear"
    hidden: int = 512
    head: HeadSpec | None = None
    init: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"timm:[a-z0-9_]+", self.tower):
            raise ValueError(f"`tower` must be timm:NAME; found `{self.tower}`")
        for name, value in self.args.items():
            if name in REFUSED_ARGS:
                raise ValueError(f"`args.{name}` is not an architecture; remove it")
            _check_argument(value, name, 0)
        _check_range("hidden", self.hidden, 1, MAX_WIDTH)
        if self.levels is not None:
            _check_range("levels", self.levels, 1, MAX_DEPTH)
        if self.stem_padding is not None:
            _check_range("stem_padding", self.stem_padding, 0, 64)
        self.preprocess()

    def preprocess(self) -> PreprocessSpec:
        """How a picture becomes the input of this tower."""
        return PreprocessSpec(self.size, self.resize, self.interpolation, self.mean, self.std)


@dataclass(frozen=True)
class TextTowerSpec:
    """The text tower: `depth` pre-norm transformer blocks over tokens, pooled and projected to (B, D).

    `pool="eos"` takes the first EOS, `"mean"` the average of all tokens up to it. `pad_mask` hides padding from
    attention: right for towers of our own; CLIP and MobileCLIP attend to it, so theirs is off. `mixer_kernel` adds
    one convolutional Text-RepMixer block of that kernel before and behind the transformer (MobileCLIP-S0).
    """

    depth: int
    width: int
    heads: int
    context_length: int
    causal: bool
    pad_mask: bool
    pool: Literal["eos", "mean"] = "eos"
    mlp_ratio: float = 4.0
    mixer_kernel: int | None = None

    def __post_init__(self) -> None:
        _check_range("depth", self.depth, 1, MAX_DEPTH)
        _check_range("width", self.width, 1, MAX_WIDTH)
        _check_range("heads", self.heads, 1, self.width)
        _check_range("context_length", self.context_length, 3, 4096)
        if self.width % self.heads:
            raise ValueError(f"`width` must be a multiple of `heads`; found {self.width} and {self.heads}")
        if not 0 < self.mlp_ratio <= 16:
            raise ValueError(f"`mlp_ratio` must lie in 0..16; found {self.mlp_ratio}")
        if self.mixer_kernel is not None and not (1 <= self.mixer_kernel <= 63 and self.mixer_kernel % 2):
            raise ValueError(f"`mixer_kernel` must be odd and lie in 1..63; found {self.mixer_kernel}")


@dataclass(frozen=True)
class TokenizerSpec:
    """`"clip"` is CLIP's own vocabulary; `"trained"` is learnt from the training captions, at most `vocab_size` ids, or
    read from `file`: what `clip-edge vocab train` wrote, or the tokenizer.json of another model. `"trimmed"` is a
    larger one without the tokens that nobody needs; only `clip-edge vocab trim` makes such students.

    The other keys belong to `file`. What the file says as well must be the same there: the tokens before and behind a
    sentence (`start` "" for none) and of padding, and whether letters are made small. `clean` is what happens to a
    sentence before the file sees it (`clip_edge.tokenizer.CLEANERS`), as it did for the teacher.
    """

    kind: Literal["clip", "trained", "trimmed"]
    vocab_size: int
    file: str | None = None
    start: str | None = None
    end: str | None = None
    pad: str | None = None
    lowercase: bool | None = None
    clean: Literal["clip", "canonicalize", "whitespace", "none"] | None = None

    def __post_init__(self) -> None:
        _check_range("vocab_size", self.vocab_size, 3 if self.kind == "trimmed" else 259, 1 << 20)
        if self.kind == "clip" and self.vocab_size != 49408:
            raise ValueError(f"`vocab_size` of CLIP's tokenizer is 49408; found {self.vocab_size}")
        if self.kind != "trained" and self.file is not None:
            raise ValueError(f"`file` is for `kind` trained; found {self.kind}")
        said = (self.start, self.end, self.pad, self.lowercase, self.clean)
        if self.file is None and any(value is not None for value in said):
            raise ValueError("`start`, `end`, `pad`, `lowercase` and `clean` describe a `file`; there is none")

    def of_folder(self) -> TokenizerSpec:
        """The same for a student folder, whose tokenizer.json and model.json hold everything that `file` told."""
        return TokenizerSpec(self.kind, self.vocab_size)


@dataclass(frozen=True)
class Parameters:
    """Numbers of trained values per tower and in the mask head, before reparameterisation."""

    image: int
    text: int
    masks: int = 0


@dataclass(frozen=True)
class Licence:
    """Under which terms weights were taken over; it travels with everything made from them."""

    applies_to: str
    name: str
    research_only: bool


@dataclass(frozen=True)
class StudentSpec:
    """A whole student. `logit_scale_init` multiplies cosines at the start; `logit_bias_init` is for sigmoid losses.

    `masks` adds a head for outlines to a student whose image tower has a `head`.
    """

    name: str
    embed_dim: int
    image: ImageSpec
    text: TextTowerSpec
    tokenizer: TokenizerSpec
    logit_scale_init: float = 1 / 0.07  # CLIP (Radford et al. 2021), section 2.5
    logit_bias_init: float | None = None
    masks: MaskSpec | None = None
    summary: str = ""
    parameters: Parameters | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", self.name):
            raise ValueError(f"`name` must be made of a-z, 0-9, `.`, `_` and `-`; found `{self.name}`")
        _check_range("embed_dim", self.embed_dim, 1, MAX_WIDTH)
        if not 0 < self.logit_scale_init <= 1e4:
            raise ValueError(f"`logit_scale_init` must lie in 0..10000; found {self.logit_scale_init}")
        if self.masks is not None and self.image.head is None:
            raise ValueError("`masks` needs `image.head`: both stand on the same feature map")


def load_spec(name: str | Path) -> StudentSpec:
    """The student of that name (`clip-edge list students`), or the one in a JSON file of your own.

    Raises:
        ConfigError: no student of that name (the nearest is named), or a file with wrong keys or values.
    """
    if isinstance(name, Path) or name.endswith(".json"):
        path = Path(name)
    else:
        path = STUDENTS / f"{name}.json"
        known = student_names()
        if name not in known:
            raise unknown_name("student", name, known, error=ConfigError)
    return build(StudentSpec, read_json(path, error=ConfigError), where=path, hint="all keys: docs/students.md")


def same_student(one: StudentSpec, other: StudentSpec) -> bool:
    """Whether weights of one fit the other: counts and the place of a tokenizer file do not matter."""
    first, second = (replace(spec, parameters=None, tokenizer=spec.tokenizer.of_folder()) for spec in (one, other))
    return first == second


def student_names() -> list[str]:
    """The names of all built-in students, sorted."""
    return sorted(path.stem for path in STUDENTS.glob("*.json"))


def list_students() -> list[StudentSpec]:
    """All built-in students, sorted by name."""
    return [load_spec(name) for name in student_names()]


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"`{name}` must lie in {low}..{high}; found {value}")


def _check_argument(value: object, name: str, nested: int) -> None:
    if isinstance(value, list | tuple) and len(value) <= 64 and nested < 3:
        for item in value:
            _check_argument(item, name, nested + 1)
    elif isinstance(value, int | float):
        if not abs(value) <= MAX_WIDTH:
            raise ValueError(f"`args.{name}` is out of range: {value}")
    elif not (value is None or (isinstance(value, str) and re.fullmatch(r"[a-zA-Z0-9_]{0,40}", value))):
        raise ValueError(f"`args.{name}` must be a number, a word or a short list of them")
