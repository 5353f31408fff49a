"""Valid inputs for the fuzz targets of the native library: `python -m tests.runtime.native.fuzz_seeds FOLDER`.

Each target finds its files in FOLDER/<target>; the first bytes mean what runtime/tests/fuzz/<target>.cpp says.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.runtime.native import pictures

BYTE_NAMES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # GPT-2's printable bytes


def pictures_seeds() -> Iterator[bytes]:
    for index, (_, file) in enumerate(pictures.every_kind(120, seed=3)):
        if len(file) < 4000:
            yield bytes([index * 37 % 256]) + file


def frames() -> Iterator[bytes]:
    for pixel_format in range(8):
        for orientation in (1, 6, 7):
            yield struct.pack(
                "bbBbBbBBbBbBbB",
                33,
                17,
                pixel_format,
                orientation,
                pixel_format % 3,
                16,
                orientation % 2,
                1,
                0,
                9,
                3,
                9,
                1,
                9,
            )


def manifests() -> Iterator[bytes]:
    preprocess = {"size": 32, "resize": "shortest", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    tokenizer = {"context_length": 16, "vocab_size": 300, "pad_id": 0, "bos_id": 1, "eos_id": 2, "clean": "none"}
    image = {"preprocess": preprocess, "crop": "center", "channel_order": "RGB", "layout": "NCHW"}
    text = {"tokenizer": tokenizer, "causal": False, "pad_mask": True, "pooling": "eos", "activation": "gelu"}
    artifact = {"tower": "image", "target": "onnx", "precision": "fp32", "path": "onnx/v.onnx", "input": "pixel_values"}
    artifact |= {"input_dtype": "float32", "output": "image_embeds", "batch": None, "opset": 18, "parameters": 1}
    embedding = {"space": "00ff", "dim": 8, "normalized": True, "logit_scale": 14.2, "logit_bias": None}
    body = {"schema": 1, "name": "tiny", "created_by": "test", "embedding": embedding}
    body |= {"image": {**image, "pixel_scale": 1 / 255, "antialias": True}, "text": text}
    body |= {"artifacts": [{**artifact, "verification": None}], "licences": [], "research_only": False}
    body |= {"source": {}, "versions": {}, "files": {"onnx/v.onnx": {"sha256": "00", "bytes": 7}}}
    yield json.dumps(body, separators=(",", ":"))[1:].encode()


def golden_files() -> Iterator[bytes]:
    texts = b'["a","b"]'
    shapes = {"input_ids": ("I64", [2, 3], 48), "image_embeds": ("F32", [1, 2], 8), "text_embeds": ("F32", [2, 2], 16)}
    shapes |= {"image.000": ("U8", [1, 3, 3], 9), "pixels": ("U8", [1, 2, 2, 3], 12), "texts": ("U8", [9], 9)}
    header, at = {}, 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    described = json.dumps(header).encode()
    yield struct.pack("<Q", len(described)) + described + bytes(at - len(texts)) + texts


def tokenizers() -> Iterator[bytes]:
    spare = iter(range(256, 512))
    names = [chr(byte) if byte in BYTE_NAMES else chr(next(spare)) for byte in range(256)]
    vocabulary = {name: byte for byte, name in enumerate(names)} | {"ab": 256, "abc": 257}
    steps: list[dict[str, object]] = [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip"}]
    steps.insert(2, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    for regex in (" ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|[a-f]{2,3}", "'s|'t|(?i:ab)|\\s+(?!\\S)|\\s+", "[\\p{N}]{1,3}"):
        split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        whole = {
            "normalizer": {"type": "Sequence", "normalizers": steps},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], ["ab", "c"]]},
        }
        for sentence in ("abc ABC  fé &amp; ’s ﬁn", "", "日本語 e\u0301\u0327 \ufffd\u200b <b>"):
            text = sentence.encode()
            yield struct.pack("<H", len(text)) + text + json.dumps(whole, ensure_ascii=False).encode()


def plans() -> Iterator[bytes]:
    profiles = [{"min": 1, "opt": 1, "max": 1}, {"min": 1, "opt": 8, "max": 32}]
    engine = {"capability": "sm89", "path": "g.sm89.engine", "library": "1.7.1.116", "bytes": 3}
    graph = {
        "path": "g.onnx",
        "sha256": "0" * 64,
        "tower": "image",
        "precision": "int8",
        "opset": 19,
        "input": "pixels",
    }
    graph |= {"input_dtype": "float32", "row_shape": [3, 32, 32], "output": "embeds", "dim": 24, "profiles": profiles}
    graph |= {"workspace_bytes": 2**30, "optimization_level": 3, "tf32": False, "layers": {"int8": 2}, "trtexec": None}
    whole = {"schema": 1, "target": "trt-rtx", "library": "tensorrt-rtx", "oldest": "1.4", "below": "2"}
    whole |= {"timing_cache": None, "command": "clip-edge build", "graphs": [{**graph, "engines": [engine]}]}
    yield json.dumps(whole).encode()


TARGETS = {
    "frame": frames,
    "golden": golden_files,
    "manifest": manifests,
    "picture": pictures_seeds,
    "plan": plans,
    "tokenizer": tokenizers,
}


def main() -> None:
    for target, seeds in TARGETS.items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for index, seed in enumerate(seeds()):
            (folder / f"seed-{index:03d}").write_bytes(seed)


if __name__ == "__main__":
    main()
