"""The native library against what people use today, on this machine, side by side in one run.

    python -m clip_edge.benchmarks.native_jpeg BUNDLE [PHOTO.jpg...] --build build/host --out native_jpeg.json

* photo file -> tensor, and -> embedding: libclip_edge (fast and exact), Pillow's full decoding, Pillow's `draft`;
  all ways share one ONNX Runtime session of one thread;
* cosine of each embedding to that of the full decoding;
* process launch to first embedding, and peak memory: `clip-edge-cli` against open_clip with MobileCLIP-S1 and random
  weights; give a bundle of the same model;
* seconds a sentence: clip_edge_tokenize against open_clip's tokenizer, where the bundle has CLIP's vocabulary.

The ways take turns, round by round, so that a busy neighbour slows all of them. Every sample is kept.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from clip_edge.benchmarks.environment import read_environment
from clip_edge.bundle import Bundle
from clip_edge.files import write_json
from clip_edge.images import as_rgb, open_image
from clip_edge.preprocess import Floats, PreprocessSpec, normalize, to_pixels
from clip_edge.schema import as_dict

# open_clip as its README uses it, on one thread.
OPEN_CLIP = """
import sys, torch, open_clip
from PIL import Image
torch.set_num_threads(1)
model, _, preprocess = open_clip.create_model_and_transforms("MobileCLIP-S1")
model.eval()
with torch.no_grad():
    model.encode_image(preprocess(Image.open(sys.argv[1])).unsqueeze(0), normalize=True)
"""
OPEN_CLIP_TOKENIZER = """
import json, sys, time, open_clip
tokenizer = open_clip.get_tokenizer("MobileCLIP-S1")
sentences = json.loads(sys.argv[1])
start = time.perf_counter()
for sentence in sentences:
    tokenizer(sentence)
print((time.perf_counter() - start) / len(sentences))
"""
NAMES = ("red apple", "small dog", "yellow taxi", "wooden table", "flower in a garden")
SENTENCES = [f"a photo of a {a} beside the {b}, number {n}" for n in range(40) for a in NAMES for b in NAMES]
CLIP_VOCABULARY = 49408

Way = Callable[[Path], Floats]
FILE, EXACT = 9, 1  # CLIP_EDGE_PIXELS_FILE, CLIP_EDGE_DECODE_EXACT


class CImage(ctypes.Structure):
    """clip_edge_image"""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("struct_size", "width", "height", "format")),
        ("plane", ctypes.c_void_p * 3),
        ("stride", ctypes.c_int32 * 3),
        *((name, ctypes.c_int32) for name in ("orientation", "yuv", "decoding")),
        ("path", ctypes.c_char_p),
        ("encoded_bytes", ctypes.c_size_t),
    ]


class CSpec(ctypes.Structure):
    """clip_edge_preprocess_spec"""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("struct_size", "size", "resize", "interpolation")),
        ("mean", ctypes.c_float * 3),
        ("std", ctypes.c_float * 3),
    ]


def native(library: ctypes.CDLL, spec: PreprocessSpec, decoding: int) -> Way:
    """File -> (3, S, S) through clip_edge_preprocess_image."""
    resize, filter_ = ("shortest", "squash").index(spec.resize), ("bilinear", "bicubic").index(spec.interpolation)
    mean, std = (ctypes.c_float * 3)(*spec.mean), (ctypes.c_float * 3)(*spec.std)
    wanted = CSpec(ctypes.sizeof(CSpec), spec.size, resize, filter_, mean, std)
    library.clip_edge_last_error.restype = ctypes.c_char_p

    def run(path: Path) -> Floats:
        image, size = CImage(), ctypes.c_size_t
        library.clip_edge_image_init(ctypes.byref(image), size(ctypes.sizeof(image)))
        image.format, image.path, image.decoding = FILE, os.fsencode(path), decoding
        out = np.empty((3, spec.size, spec.size), np.float32)
        to = ctypes.c_void_p(out.ctypes.data)
        status = library.clip_edge_preprocess_image(ctypes.byref(wanted), ctypes.byref(image), to, size(out.size))
        if status != 0:
            raise SystemExit(library.clip_edge_last_error().decode())
        return out

    return run


def pillow_full(spec: PreprocessSpec) -> Way:
    return lambda path: normalize(to_pixels(open_image(path), spec), spec)


def pillow_draft(spec: PreprocessSpec) -> Way:
    """As thumbnails are made: the decoder reduces as far as the model's size allows."""

    def run(path: Path) -> Floats:
        with Image.open(path) as image:
            image.draft("RGB", (spec.size, spec.size))
            return normalize(to_pixels(as_rgb(image), spec), spec)

    return run


def generated(folder: Path) -> list[Path]:
    """Two JPEGs of 4000 x 3000 pixels with the spectrum of photographs (amplitude ~ frequency^-slope): one of the size
    that phones write, about 3 MB, and a smooth one of half a megabyte."""
    rng, files = np.random.default_rng(7), []
    frequency = np.hypot(np.fft.fftfreq(3000)[:, None], np.fft.rfftfreq(4000)[None])
    frequency[0, 0] = 1.0
    for name, slope, quality in (("detailed.jpg", 1.3, 90), ("smooth.jpg", 1.8, 85)):
        planes = []
        for _ in range(4):  # one of brightness, and one for each colour
            plane = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3000, 4000))) / frequency**slope, (3000, 4000))
            planes.append((plane - plane.mean()) / plane.std())
        pixels = np.dstack([128 + 45 * (0.8 * planes[0] + 0.4 * colour) for colour in planes[1:]])
        files.append(folder / name)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(files[-1], "JPEG", quality=quality)
    return files


def take_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way, `rounds` times, one after the other; the first round is not counted. Every way is one
    thread, and its CPU time says more than the clock where neighbours want the same core."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, way in ways.items():
            start = time.thread_time()
            way()
            if round_:
                samples[name].append(time.thread_time() - start)
    return samples


def photo_to_tensor(ways: dict[str, Way], photo: Path, rounds: int) -> dict[str, list[float]]:
    return take_turns({name: partial(way, photo) for name, way in ways.items()}, rounds)


def photo_to_embedding(
    ways: dict[str, Way], encode: Callable[[Floats], Floats], photo: Path, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds to the embedding, and the cosine of each to the full decoding."""
    vectors = {name: encode(way(photo)) for name, way in ways.items()}
    cosines = {name: float(vector @ vectors["pillow full"]) for name, vector in vectors.items()}

    def embed(way: Way) -> Floats:
        return encode(way(photo))

    return take_turns({name: partial(embed, way) for name, way in ways.items()}, rounds), cosines


def encoder(graph: Path) -> Callable[[Floats], Floats]:
    """(3, S, S) -> (D,) on one thread."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(None, {session.get_inputs()[0].name: pixels[None]})[0][0], np.float32)


def launch(words: list[str]) -> tuple[float, float, int]:
    """Seconds from launch to the end, CPU seconds, and peak resident bytes of a fresh process that embeds one photo."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{words[0]} failed: {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


class CText(ctypes.Structure):
    """clip_edge_text_spec"""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("struct_size", "context_length", "vocab_size", "pad_id", "bos_id", "eos_id", "clean")
    ]


def native_tokenizer_s(library: ctypes.CDLL, file: Path, sentences: list[bytes]) -> tuple[float, float]:
    """Seconds a sentence, one by one with what ctypes costs each time, and all in one call."""
    spec, tokenizer, size, json_bytes = CText(), ctypes.c_void_p(), ctypes.c_size_t, file.read_bytes()
    library.clip_edge_text_spec_init(ctypes.byref(spec), size(ctypes.sizeof(spec)))
    library.clip_edge_tokenizer_new(json_bytes, size(len(json_bytes)), ctypes.byref(spec), ctypes.byref(tokenizer))
    ids = (ctypes.c_int32 * spec.context_length)()
    start = time.perf_counter()
    for sentence in sentences:
        status = library.clip_edge_tokenize(tokenizer, sentence, size(len(sentence)), ids, size(len(ids)))
        assert status == 0, status
    one_by_one = (time.perf_counter() - start) / len(sentences)
    rows = (ctypes.c_char_p * len(sentences))(*sentences), (size * len(sentences))(*map(len, sentences))
    many = (ctypes.c_int32 * (spec.context_length * len(sentences)))()
    start = time.perf_counter()
    status = library.clip_edge_tokenize_texts(tokenizer, *rows, size(len(sentences)), many, size(len(many)))
    assert status == 0, status
    together = (time.perf_counter() - start) / len(sentences)
    library.clip_edge_tokenizer_free(tokenizer)
    return one_by_one, together


def tokenizers(library: ctypes.CDLL, file: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds a sentence; open_clip's in a fresh process each time, after it has loaded."""
    found: dict[str, list[float]] = {"clip_edge_tokenize": [], "clip_edge_tokenize_texts": [], "open_clip": []}
    for _ in range(rounds):
        one_by_one, together = native_tokenizer_s(library, file, [text.encode() for text in SENTENCES])
        found["clip_edge_tokenize"].append(one_by_one)
        found["clip_edge_tokenize_texts"].append(together)
        words = [sys.executable, "-c", OPEN_CLIP_TOKENIZER, json.dumps(SENTENCES)]
        output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found["open_clip"].append(float(output))
    return found


def cold_starts(commands: dict[str, list[str]], rounds: int) -> dict[str, list[tuple[float, float, int]]]:
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            found[name].append(launch(words))
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path, nargs="*", help="default: two generated ones of 12 megapixels")
    parser.add_argument("--build", type=Path, required=True, help="where CMake built the library and the program")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, options.photos or generated(Path(folder)))


def measure(options: argparse.Namespace, photos: list[Path]) -> None:
    environment = as_dict(read_environment())
    library = ctypes.CDLL(str(options.build / "runtime/src/libclip_edge.so"))
    manifest = Bundle.open(options.bundle).manifest
    graph, spec = options.bundle / "onnx" / "vision_model.onnx", manifest.image.preprocess
    ways = {
        "native fast": native(library, spec, 0),
        "native exact": native(library, spec, EXACT),
        "pillow full": pillow_full(spec),
        "pillow draft": pillow_draft(spec),
    }
    encode, results = encoder(graph), []
    for photo in photos:
        size, seconds = open_image(photo).size, photo_to_tensor(ways, photo, options.rounds)
        whole, cosines = photo_to_embedding(ways, encode, photo, max(options.rounds // 2, 1))
        row = {"photo": photo.name, "bytes": photo.stat().st_size, "size": size, "cosine_to_full": cosines}
        results.append({**row, "to_tensor_cpu_s": seconds, "to_embedding_cpu_s": whole})
        median_ms = {name: round(1e3 * statistics.median(values), 1) for name, values in seconds.items()}
        sys.stdout.write(f"{photo.name}: {median_ms} ms of CPU, cosines {cosines}\n")
    program, photo = options.build / "runtime/cli/clip-edge-cli", photos[0]
    engine = ["--onnxruntime", *map(str, (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))]
    commands = {
        "clip-edge-cli": [str(program), "embed", str(options.bundle), "--image", str(photo), "--threads", "1", *engine],
        "open_clip": [sys.executable, "-c", OPEN_CLIP, str(photo)],
    }
    starts = cold_starts(commands, options.launches)
    clip = manifest.text.tokenizer.vocab_size == CLIP_VOCABULARY
    texts = tokenizers(library, options.bundle / "tokenizer.json", options.launches) if clip else None
    sys.stdout.write(f"cold starts: {starts}\ntokenizers: {texts}\n")
    result = {"bundle": options.bundle.name, "size": spec.size, "environment": environment, "photos": results}
    result |= {"graph_bytes": graph.stat().st_size, "cold_start_s_cpu_s_rss_bytes": starts, "sentence_s": texts}
    write_json(options.out, result)


if __name__ == "__main__":
    main()
