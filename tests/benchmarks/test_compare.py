"""Reports against reports: what is refused, and what is called slower."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clip_edge.benchmarks.compare import compare_reports
from clip_edge.benchmarks.report import Report, Row
from clip_edge.benchmarks.tables import change_line
from clip_edge.errors import UsageError

MakeRow, MakeReport = Callable[..., Row], Callable[..., Report]
OLD = Path("old.json")


def test_a_slower_row_is_named_with_its_ratio(make_row: MakeRow, make_report: MakeReport) -> None:
    old = make_report(make_row(1), make_row(2, tower="text"))
    new = make_report(make_row(3), make_row(4, tower="text", factor=1.05))
    image, text = compare_reports(old, new, old_path=OLD)
    assert (image.change.verdict, text.change.verdict) == ("same", "slower")
    assert text.row == "text · fp32 · onnxruntime · batch 1 · threads 1 · single-stream"
    assert change_line(text).startswith(f"{text.row}: 1.05 × slower (1.05")
    assert "no difference" in change_line(image)


def test_two_models_of_one_bundle_each_are_compared_by_setting(make_row: MakeRow, make_report: MakeReport) -> None:
    old, new = make_report(make_row(1, bundle="v1")), make_report(make_row(2, bundle="v2", factor=0.5))
    (change,) = compare_reports(old, new, old_path=OLD)
    assert change.change.verdict == "faster"
    assert "2.00 × faster" in change_line(change)


def test_unlike_settings_are_refused_all_at_once(make_row: MakeRow, make_report: MakeReport) -> None:
    old, new = make_report(make_row(1)), make_report(make_row(2))
    workload = replace(old.settings.workload, sha256="ef" * 32, source="golden set of the bundle")
    old = replace(
        old,
        settings=replace(old.settings, workload=workload),
        environment=replace(old.environment, cpu="Another CPU", usable_cores=8),
    )
    with pytest.raises(UsageError) as caught:
        compare_reports(old, new, old_path=OLD)
    assert str(caught.value) == (
        "the two reports were not taken alike:\n"
        "  settings.workload: `golden set of the bundle` efefefefefef then, `files` abababababab now\n"
        "  environment.cpu: `Another CPU` then, `Example CPU` now\n"
        "  environment.usable_cores: `8` then, `2` now\n"
        "  in: old.json\n\n"
        "hint: measure both on one machine with the same options, pictures and sentences (--image, --text)"
    )


def test_other_library_versions_are_what_comparisons_are_for(make_row: MakeRow, make_report: MakeReport) -> None:
    old, new = make_report(make_row(1)), make_report(make_row(2))
    old = replace(old, environment=replace(old.environment, packages={"onnxruntime": "1.20"}, load_average_1min=3.0))
    assert len(compare_reports(old, new, old_path=OLD)) == 1


def test_a_slower_machine_is_divided_out(make_row: MakeRow, make_report: MakeReport) -> None:
    """Everything took 1.2 times as long, the reference load as well: the code is the same."""
    load = make_row(5).samples_s
    old = make_report(make_row(1, reference_s=load))
    new = make_report(make_row(2, factor=1.2, reference_s=tuple(1.2 * seconds for seconds in load)))
    (item,) = compare_reports(old, new, old_path=OLD)
    assert item.change.verdict == "same"
    assert change_line(item).endswith("; machine 1.200 ×, divided out; less than 11.6% is not judged)")


def test_another_reference_load_is_not_compared_with(make_row: MakeRow, make_report: MakeReport) -> None:
    load = make_row(5).samples_s
    old = make_report(make_row(1, reference_s=load))
    new = make_report(make_row(2, factor=1.2, reference_s=tuple(1.2 * seconds for seconds in load)))
    new = replace(new, settings=replace(new.settings, reference="another"))
    (item,) = compare_reports(old, new, old_path=OLD)
    assert (item.change.verdict, item.change.reference_ratio) == ("slower", None)


def test_reports_without_a_common_row_are_refused(make_row: MakeRow, make_report: MakeReport) -> None:
    old, new = make_report(make_row(1, batch=8)), make_report(make_row(2))
    with pytest.raises(UsageError, match="the two reports share no row"):
        compare_reports(old, new, old_path=OLD)
