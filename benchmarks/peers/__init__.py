"""Tools that people would use instead, measured beside ours: a table, read without loading any of them.

Each has a file of its own with `open_peer(job) -> Opened` and an environment of its own, pinned in `NAME.txt`.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "peer:"  # how a row names its engine: `peer:openvino`


@dataclass(frozen=True)
class Peer:
    """One way to run a CLIP model. `fixed` says why it cannot be given the weights of a bundle."""

    module: str
    precision: str
    summary: str
    variant: str = ""
    fixed: str | None = None


PEERS = {
    "open_clip": Peer("open_clip", "fp32", "open_clip in PyTorch, eager, reparameterised"),
    "open_clip-compile": Peer("open_clip", "fp32", "the same under torch.compile", variant="compile"),
    "transformers": Peer("transformers", "fp32", "Hugging Face's CLIPModel in PyTorch, eager"),
    "optimum": Peer("optimum", "fp32", "optimum's ONNX export of it in ONNX Runtime; one graph for both towers"),
    "modern-onnx-clip": Peer("modern_onnx_clip", "fp32", "the package's own preprocessing, tokenizer and session"),
    "openvino": Peer("openvino", "fp32", "OpenVINO on the bundle's fp32 graphs, latency hint, computing in float32"),
    "openvino-bf16": Peer(
        "openvino", "bf16", "the same as OpenVINO runs it where the CPU has bfloat16", variant="bf16"
    ),
    "openvino-int8": Peer("openvino", "int8", "in float32 after NNCF's quantisation, its defaults", variant="int8"),
    "executorch": Peer("executorch", "fp32", "ExecuTorch with XNNPACK, from open_clip's model"),
    "mnn": Peer("mnn", "fp32", "MNN, converted from the bundle's fp32 graphs"),
    "faster-clip": Peer(
        *("", "int8", "a Rust engine for one CLIP ViT-B/32"),
        fixed="it runs one model whose weights it downloads by itself, and takes no others: not the same embedding",
    ),
    "onnx-clip": Peer(
        *("", "fp32", "ONNX Runtime and Pillow for OpenAI's ViT-B/32 and RN50"),
        fixed="it runs two models whose weights it downloads by itself, and takes no others: not the same embedding",
    ),
}
