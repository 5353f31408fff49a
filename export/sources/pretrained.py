"""open_clip and Hugging Face models as an `Exportable`."""

from __future__ import annotations

from torch import nn

from clip_edge.bundle import ImageInput, Licence, TextInput
from clip_edge.distill.models.pretrained import load_pretrained
from clip_edge.errors import UsageError
from clip_edge.export.sources import Exportable
from clip_edge.export.towers import ImageTower, TextTower


def load(source: str) -> Exportable:
    """The model that `source` names: `open_clip:…` or `hf:…`.

    Raises:
        UsageError, CheckpointError, UnavailableError: as `load_pretrained`; a model whose text tower is no encoder of
            its own (a captioner).
    """
    loaded = load_pretrained(source)
    facts = loaded.facts
    if facts is None:
        raise UsageError(
            f"`{source}` cannot be exported: its text tower serves a decoder, or pools at an id that changes",
            hint="name a CLIP or SigLIP model",
        )
    scale, bias = loaded.logits()
    licences = tuple(Licence(one.applies_to, one.name, one.research_only) for one in loaded.licences)
    unknown = Licence("both towers", f"unknown: weights from {source}", research_only=False)
    return Exportable(
        name=loaded.name,
        where=source,
        image=ImageTower(loaded.image, nn.Identity()).eval(),
        text=TextTower(loaded.text).eval(),
        tokenizer=loaded.tokenizer,
        image_input=ImageInput(loaded.preprocess, crop="none" if loaded.preprocess.resize == "squash" else "center"),
        text_input=TextInput(loaded.tokenizer.spec, facts.causal, facts.pad_mask, facts.pooling, facts.activation),
        dim=_dim(loaded.text, loaded.tokenizer.spec.context_length),
        logit_scale=scale,
        logit_bias=bias,
        architecture=loaded.architecture,
        licences=licences or (() if loaded.random else (unknown,)),
        research_only=loaded.research_only,
        provenance={"source": source, "weights": "random" if loaded.random else "trained elsewhere"},
    )


def _dim(text: nn.Module, context_length: int) -> int:
    import torch

    with torch.inference_mode():
        return int(text(torch.zeros(1, context_length, dtype=torch.int64)).shape[1])
