"""The command line as a person meets it: exit codes, suggestions, one JSON object, no tracebacks."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_edge import __version__, cli
from clip_edge.cli import VERBS, Outcome, main
from clip_edge.console import Console
from clip_edge.errors import DataError, ExitCode

CLIP_EDGE = (sys.executable, "-m", "clip_edge.cli")
Run = Callable[[argparse.Namespace, Console], Outcome]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Adds a verb `probe`, with sub-commands `first` and `second`, that runs the given function."""

    def install(run: Run) -> None:
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            commands = parser.add_subparsers(required=True, metavar="COMMAND")
            first = commands.add_parser("first")
            first.add_argument("--size", type=int, choices=(64, 96), default=64)
            commands.add_parser("second").add_argument("--langs")

        module = types.ModuleType("clip_edge.commands.probe")
        module.__dict__.update(add_arguments=add_arguments, run=run)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.VERBS, "probe", "for tests")

    return install


def fail(args: argparse.Namespace, console: Console) -> Outcome:
    raise DataError("empty data set", where="d", hint="add pictures")


def test_help_and_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert "exit codes: 0 done, checks passed" in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clip-edge {__version__}\n"
    assert main([]) == 2
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_in_the_table_is_a_module(verb: str):
    assert importlib.util.find_spec(f"clip_edge.commands.{verb}") is not None


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["exprot"]) == 2
    assert capsys.readouterr().err == (
        f"error: unknown verb: `exprot`\n\nhint: did you mean `export`? known: {', '.join(sorted(VERBS))}\n"
    )


def test_an_option_before_the_verb(capsys: pytest.CaptureFixture[str]):
    assert main(["--quiet", "eval"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown option: `--quiet`\n\nhint: a verb comes first; see `clip-edge --help`\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["first", "--siz", "64"], "unknown option: `--siz`\n\nhint: did you mean `--size`?"),
        (["first", "--siz=64"], "unknown option: `--siz`\n\nhint: did you mean `--size`?"),
        (["first", "--no-progres"], "unknown option: `--no-progres`\n\nhint: did you mean `--no-progress`?"),
        (["first", "--zzzz"], "unknown option: `--zzzz`\n\nhint: see `clip-edge probe --help`"),
        (["first", "stray"], "unknown argument: `stray`\n\nhint: see `clip-edge probe --help`"),
        (["first", "--size", "65"], "unknown size: `65`\n\nhint: known: 64, 96"),
        (
            ["first", "--size", "x"],
            "argument --size: invalid int value: 'x'\n\nhint: see `clip-edge probe first --help`",
        ),
        (["fist"], "unknown command: `fist`\n\nhint: did you mean `first`? known: first, second"),
        ([], "the following arguments are required: COMMAND\n\nhint: see `clip-edge probe --help`"),
    ],
)
def test_misspelt_words(
    probe: Callable[[Run], None], capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    probe(lambda args, console: Outcome())
    assert main(["probe", *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("options", [["--json", "-"], ["--json=-"]])
def test_json_on_stdout_is_one_object(
    probe: Callable[[Run], None], capsys: pytest.CaptureFixture[str], options: list[str]
):
    def run(args: argparse.Namespace, console: Console) -> Outcome:
        console.out("for people")
        console.say("talk")
        return Outcome({"size": args.size}, ExitCode.NO)

    probe(run)
    assert main(["probe", "first", *options]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"size": 64}
    assert captured.err == "talk\n"


def test_json_in_a_file_leaves_stdout_to_people(
    probe: Callable[[Run], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    def run(args: argparse.Namespace, console: Console) -> Outcome:
        console.out("for people")
        return Outcome({"a": 1})

    probe(run)
    assert main(["probe", "first", "--json", str(tmp_path / "o.json")]) == 0
    assert capsys.readouterr().out == "for people\n"
    assert json.loads((tmp_path / "o.json").read_text()) == {"a": 1}


def test_an_error_is_an_object_too(probe: Callable[[Run], None], capsys: pytest.CaptureFixture[str]):
    probe(fail)
    assert main(["probe", "first", "--json", "-"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: empty data set\n  in: d\n\nhint: add pictures\n"
    assert json.loads(captured.out) == {
        "error": {"type": "DataError", "what": "empty data set", "where": "d", "hint": "add pictures"}
    }


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no/o.json", "no such folder: {}/no\n\nhint: --json writes one file into an existing folder"),
        ("", "a folder, not a file: {}\n\nhint: --json writes one file"),
    ],
)
def test_a_wrong_place_for_json_is_said_before_the_work(
    probe: Callable[[Run], None], capsys: pytest.CaptureFixture[str], tmp_path: Path, target: str, message: str
):
    def run(args: argparse.Namespace, console: Console) -> Outcome:
        raise AssertionError("no work may be done")

    probe(run)
    assert main(["probe", "first", "--json", str(tmp_path / target)]) == 2
    assert capsys.readouterr().err == f"error: {message.format(tmp_path)}\n"


def test_tracebacks_only_with_verbose(probe: Callable[[Run], None], capsys: pytest.CaptureFixture[str]):
    probe(fail)
    assert main(["probe", "first"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["probe", "first", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_what_nobody_foresaw(probe: Callable[[Run], None], capsys: pytest.CaptureFixture[str]):
    def run(args: argparse.Namespace, console: Console) -> Outcome:
        raise ZeroDivisionError("by zero")

    probe(run)
    assert main(["probe", "first"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: unexpected ZeroDivisionError: by zero\n  in: {__file__}:")
    assert "hint: this is a fault of clip-edge; run again with --verbose and report what it prints" in shown
    assert "Traceback" not in shown
    assert main(["probe", "first", "--verbose"]) == 1
    assert "ZeroDivisionError: by zero\n\nThe above exception" in capsys.readouterr().err


def test_control_characters_in_an_error_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]):
    assert main(["\x1b[2Jexport"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen([*CLIP_EDGE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before anything was written
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_an_encoding_without_the_character_is_no_error():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*CLIP_EDGE, "红苹果"], capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(rb"error: unknown verb: `\u7ea2\u82f9\u679c`")


def test_interrupted_is_130(tmp_path: Path):
    program = (
        "import signal, sys, time, types, clip_edge.cli as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs start with it ignored
        "def run(args, console):\n"
        "    console.say('ready')\n"
        "    time.sleep(60)\n"
        "sys.modules['clip_edge.commands.probe'] = types.SimpleNamespace(add_arguments=lambda p: None, run=run)\n"
        "cli.VERBS['probe'] = ''\n"
        "sys.exit(cli.main(['probe']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "\ninterrupted\n"
        assert process.wait(timeout=60) == 130
