"""A student: an image tower and a text tower that meet in one embedding space; some can outline things as well."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_edge.distill.models.image import ImageTower
from clip_edge.distill.models.masks import MaskHead
from clip_edge.distill.models.spec import Licence, Parameters, StudentSpec
from clip_edge.distill.models.text import TextTower
from clip_edge.errors import ConfigError
from clip_edge.tokenizer import TextSpec, Tokenizer


class Student(nn.Module):
    """Two towers and the learnt scale (and bias) between their cosines. `logit_scale` is kept as a logarithm."""

    def __init__(self, spec: StudentSpec, tokens: TextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.image = ImageTower(spec.image, spec.embed_dim)
        self.text = TextTower(spec.text, tokens, spec.embed_dim)
        self.masks = None if spec.masks is None else MaskHead(spec.masks, self.image.feature_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(spec.logit_scale_init)))
        self.licences: list[Licence] = []  # of weights that were loaded into this student
        bias = spec.logit_bias_init
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, D) unit vectors."""
        return self.project_image(self.image_features(pixel_values))

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """(B, L) token ids -> (B, D) unit vectors."""
        return F.normalize(self.text(input_ids), dim=-1)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, F) pooled features of the trunk, before the projection; its map where it gives one."""
        features: Tensor = self.image.trunk(pixel_values)
        return features

    def project_image(self, features: Tensor) -> Tensor:
        """(B, F) features of the trunk -> (B, D) unit vectors."""
        return F.normalize(self.image.projection(features), dim=-1)


def build_student(spec: StudentSpec, tokenizer: Tokenizer) -> Student:
    """The student that `spec` describes, with random weights (`weights.load_initial` gives it its first ones).

    Raises:
        ConfigError: the tokenizer's context or vocabulary is not the student's, or timm cannot build the tower.
    """
    check_tokens(spec, tokenizer.spec)
    return Student(spec, tokenizer.spec)


def check_tokens(spec: StudentSpec, tokens: TextSpec) -> None:
    """Raise ConfigError when rows of `tokens` do not fit the text tower of `spec`."""
    wanted = (spec.text.context_length, spec.tokenizer.vocab_size)
    found = (tokens.context_length, tokens.vocab_size)
    if wanted != found:
        raise ConfigError(
            f"expected a tokenizer of context {wanted[0]} with {wanted[1]} ids; found {found[0]} with {found[1]}",
            where=f"student {spec.name}",
            hint="train the tokenizer with the student's own context_length and vocab_size",
        )


def count_parameters(student: Student) -> Parameters:
    """Trained values per tower."""
    parts = (student.image, student.text, student.masks)
    return Parameters(*(0 if part is None else sum(value.numel() for value in part.parameters()) for part in parts))
