"""Talk on stderr, data on stdout, progress as a bar or as lines."""

from __future__ import annotations

import pytest

from clip_edge import console as console_module
from clip_edge.console import SILENT, Console, printable


def test_talk_goes_to_stderr_and_data_to_stdout(capsys: pytest.CaptureFixture[str]):
    console = Console()
    console.say("hello")
    console.detail("hidden")
    console.warn("careful")
    console.out("result")
    captured = capsys.readouterr()
    assert captured.err == "hello\nwarning: careful\n"
    assert captured.out == "result\n"


def test_quiet_keeps_warnings_and_results(capsys: pytest.CaptureFixture[str]):
    console = Console(quiet=True)
    console.say("hello")
    console.warn("careful")
    console.out("result")
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == ("warning: careful\n", "result\n")


def test_verbose_shows_details(capsys: pytest.CaptureFixture[str]):
    Console(verbose=True).detail("why")
    assert capsys.readouterr().err == "why\n"


def test_nothing_but_the_object_on_stdout_when_stdout_carries_json(capsys: pytest.CaptureFixture[str]):
    console = Console(data_to_stdout=False)
    console.out("result")
    console.table(["a"], [["b"]])
    assert capsys.readouterr().out == ""


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]):
    SILENT.say("x")
    SILENT.out("x")
    with SILENT.progress("x", 3) as meter:
        meter.advance()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_table_shows_cells_as_they_stand(capsys: pytest.CaptureFixture[str]):
    Console().table(["name", ">share"], [["[bold]x[/bold] :smile:", "1.0 %"], ["红苹果", "20.5 %"]], title="t")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "t"
    assert any("[bold]x[/bold] :smile:" in line and line.endswith("  1.0 %") for line in lines)
    assert any(line.startswith("红苹果") and line.endswith(" 20.5 %") for line in lines)


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]):
    hostile = "a\x1b[2Jb\x07\x9b\r"
    Console().out(hostile)
    Console().say(hostile)
    Console().table(["x"], [[hostile]])
    captured = capsys.readouterr()
    assert not set("\x1b\x07\x9b\r") & set(captured.out + captured.err)
    assert printable("tab\tand\nline 红 é") == "tab\tand\nline 红 é"


def test_progress_without_a_terminal_is_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    now_s = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now_s[0])
    with Console().progress("train", 10, "steps") as meter:
        meter.advance()  # too early for a line
        now_s[0] += 20.0
        meter.advance(3, "loss 1.5")
    assert capsys.readouterr().err == (
        "train: 4/10 steps after 20 s, 30 s left (loss 1.5)\ntrain: 4/10 steps in 20.0 s (loss 1.5)\n"
    )


def test_progress_of_unknown_length(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console_module.time, "monotonic", lambda: 0.0)
    with Console().progress("scan", None) as meter:
        meter.advance(7)
    assert capsys.readouterr().err == "scan: 7 in 0.0 s\n"


@pytest.mark.parametrize("console", [Console(quiet=True), Console(progress_bars=False)])
def test_progress_can_be_turned_off(console: Console, capsys: pytest.CaptureFixture[str]):
    with console.progress("train", 10) as meter:
        meter.advance(10)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Console().progress("train", 4, "steps") as meter:
        meter.advance(4, "loss 1.5")
    shown = capsys.readouterr().err
    assert "train" in shown
    assert "4/4" in shown
    assert "loss 1.5" in shown
