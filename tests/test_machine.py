"""What kind of processor this is."""

from __future__ import annotations

import pytest

from clip_edge.machine import machine_class, this_machine_class
from clip_edge.quantization import Machine


@pytest.mark.parametrize(
    ("architecture", "isa", "system", "expected"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), "linux", "x86-vnni"),
        ("x86_64", ("avx2", "avx_vnni"), "linux", "x86-vnni"),
        ("x86_64", ("avx2", "avx512f"), "linux", "x86"),
        ("AMD64", (), "win32", "x86"),
        ("aarch64", ("asimd", "asimddp"), "linux", "arm"),
        ("aarch64", ("asimd",), "linux", "any"),
        ("arm64", (), "darwin", "arm"),
        ("riscv64", (), "linux", "any"),
    ],
)
def test_the_class_of_a_processor(architecture: str, isa: tuple[str, ...], system: str, expected: Machine) -> None:
    assert machine_class(architecture, isa, system) == expected


def test_this_machine_has_a_class() -> None:
    assert this_machine_class() in ("any", "x86-vnni", "x86", "arm")
