"""The JSON of the Xcode test as rows: checked, and refused where it belongs to another bundle."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_edge.benchmarks.devices.iphone import read_phone
from clip_edge.benchmarks.plan import Selection, make_plan
from clip_edge.benchmarks.report import read_report
from clip_edge.bundle import Bundle
from clip_edge.cli import main
from clip_edge.errors import DataError

LEAVES = st.none() | st.booleans() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
RESULT = {
    "tower": "image",
    "precision": "fp32",
    "threads": 2,
    "samples_s": [0.0021, 0.0019, 0.002],
    "prepare_s": 0.0004,
    "encode_s": 0.0015,
    "memory_bytes": 50_000_000,
}


def phone(bundle: Path, **changes: Any) -> dict[str, Any]:
    sha256 = Bundle.open(bundle).manifest.manifest_sha256
    state = {"thermal_state": "nominal", "low_power_mode": "false"}
    report = {"schema": 1, "model": "iPhone13,4", "system": "Version 17.5", "manifest_sha256": sha256}
    return {**report, "before": state, "after": state | {"thermal_state": "fair"}, "results": [RESULT], **changes}


def written(folder: Path, data: object) -> Path:
    file = folder / "bench.json"
    file.write_text(json.dumps(data))
    return file


def test_a_phones_rows_stand_in_a_report_of_their_own(tiny_bundle: Path, tmp_path: Path) -> None:
    file, out = written(tmp_path, phone(tiny_bundle)), tmp_path / "out"
    assert main(["bench", str(tiny_bundle), "--device", f"iphone:{file}", "--out", str(out), "-q"]) == 0
    report = read_report(out)
    (row,) = report.results
    assert row.device == "iPhone13,4, Version 17.5"
    assert row.latency_s.p50 == 0.002
    assert row.stages_s == {"preprocess": 0.0004, "encode": 0.0015}
    assert report.devices[row.device].before["thermal_state"] == "nominal"
    assert report.devices[row.device].after["thermal_state"] == "fair"


def test_another_bundle_is_no_row(tiny_bundle: Path, tmp_path: Path) -> None:
    plan = make_plan([tiny_bundle], [Selection()])
    _, rows, failures, _ = read_phone(written(tmp_path, phone(tiny_bundle, manifest_sha256="ab" * 32)), plan)
    assert rows == []
    assert failures[0].reason.startswith("measured another bundle than those given")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "`schema` must be one of 1"),
        ({"results": [RESULT | {"samples_s": []}]}, "`samples_s` must hold positive seconds"),
        ({"results": [RESULT | {"samples_s": [-1.0]}]}, "`samples_s` must hold positive seconds"),
        ({"results": [RESULT | {"tower": "audio"}]}, "`results[0].tower` must be one of image, text"),
        ({"speed": 1}, "unknown key: `speed`"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str, tiny_bundle: Path, tmp_path: Path) -> None:
    plan = make_plan([tiny_bundle], [Selection()])
    with pytest.raises(DataError) as problem:
        read_phone(written(tmp_path, phone(tiny_bundle) | change), plan)
    assert message in str(problem.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_any_json_is_a_report_or_a_data_error(tiny_bundle: Path, tmp_path: Path, value: object) -> None:
    plan = make_plan([tiny_bundle], [Selection()])
    base = phone(tiny_bundle)
    for data in (value, *({**copy.deepcopy(base), key: value} for key in ("results", "before", "model"))):
        with contextlib.suppress(DataError):
            read_phone(written(tmp_path, data), plan)
