"""Energy: counters that wrap, lines of the tools that know watts, and a reason where nothing counts."""

import sys
import time
from pathlib import Path

import pytest

from clip_edge.benchmarks.energy import PowerMeter, RaplMeter, find_meter, nvidia_watts, tegrastats_watts


def zone(folder: Path, name: str, energy_uj: int) -> Path:
    made = folder / name
    made.mkdir()
    (made / "energy_uj").write_text(f"{energy_uj}\n")
    (made / "max_energy_range_uj").write_text("1000000\n")
    return made


def test_packages_are_summed_and_a_counter_may_wrap(tmp_path: Path) -> None:
    zones = [zone(tmp_path, "intel-rapl:0", 900_000), zone(tmp_path, "intel-rapl:1", 0)]
    meter = RaplMeter(zones)
    (zones[0] / "energy_uj").write_text("100000")  # 200,000 µJ later, past the end of its range
    (zones[1] / "energy_uj").write_text("50000")
    assert meter.joules() == pytest.approx(0.25)
    assert meter.joules() == pytest.approx(0.25)


def test_parts_of_a_package_are_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"):
        zone(tmp_path, name, 5)
    meter = find_meter(tmp_path)
    assert isinstance(meter, RaplMeter)
    assert meter.name == "RAPL, 1 processor package(s)"


def test_a_machine_without_counters_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert find_meter(tmp_path) == "not readable: no RAPL counters, no nvidia-smi, no tegrastats"


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        ("RAM 2448/7620MB CPU [3%@729] GR3D_FREQ 0% cpu@46C VDD_IN 4940mW/4940mW VDD_CPU_GPU_CV 533mW/533mW", 4.94),
        ("VDD_GPU_SOC 2391mW/2391mW VDD_CPU_CV 797mW/797mW VIN_SYS_5V0 3426mW/3426mW", 6.614),
        ("RAM 1000/3964MB POM_5V_IN 2532/2532 POM_5V_GPU 0/0", 2.532),
        ("RAM 1000/3964MB CPU [0%@102]", None),
    ],
)
def test_the_boards_power_is_read_from_tegrastats(line: str, watts: float | None) -> None:
    assert tegrastats_watts(line) == (None if watts is None else pytest.approx(watts))


def test_a_gpu_that_does_not_tell_is_no_number() -> None:
    assert nvidia_watts("71.35\n") == 71.35
    assert nvidia_watts("[N/A]\n") is None


def test_watts_become_joules_over_time() -> None:
    script = "import time\nprint('10.0', flush=True)\ntime.sleep(60)"
    meter = PowerMeter("stand-in", [sys.executable, "-c", script], nvidia_watts)
    end_s = time.monotonic() + 60
    while meter.joules() == 0.0 and time.monotonic() < end_s:
        time.sleep(0.01)
    before_j, before_s = meter.joules(), time.monotonic()
    time.sleep(0.2)
    added_j, took_s = meter.joules() - before_j, time.monotonic() - before_s
    meter.close()
    assert 10.0 * 0.2 <= added_j <= 10.0 * took_s + 0.1
