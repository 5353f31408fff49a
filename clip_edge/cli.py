"""The command line: a table of verbs; a verb's module is imported only when it runs."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

from clip_edge import __version__
from clip_edge.console import Console, printable
from clip_edge.errors import ClipEdgeError, ExitCode, UsageError, suggestion, unknown_name
from clip_edge.files import json_bytes, write_file


@dataclass(frozen=True)
class Outcome:
    """What a verb leaves behind: the exit code, and the object that `--json` writes."""

    data: dict[str, Any] = field(default_factory=dict)
    code: ExitCode = ExitCode.OK


class Verb(Protocol):
    """A module in `clip_edge.commands`: light to import, heavy imports inside `run`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace, console: Console) -> Outcome: ...


VERBS: dict[str, str] = {  # name -> one line of help; the module is clip_edge.commands.<name>
    "data": "make the built-in data set, or check your own",
    "reinforce": "store what teachers and a captioner know about every picture",
    "distill": "train a student with a recipe",
    "eval": "measure a model: zero-shot classification, retrieval, segmentation",
    "export": "turn a student into a verified bundle",
    "build": "make the TensorRT engines of a bundle for the GPU of this machine",
    "vocab": "keep the tokens that your languages need, or learn a vocabulary",
    "verify": "prove that a bundle still gives its reference embeddings here",
    "run": "score your pictures against your sentences",
    "index": "store the vectors of your pictures or sentences in a file to search in",
    "search": "find the stored vectors nearest to your sentences or pictures",
    "bench": "measure latency, throughput and memory of bundles",
    "inspect": "say what a data set, student, bundle or report is",
    "list": "list recipes, students, targets, backends",
    "doctor": "say what this machine can do, and what is missing",
    "demo": "the whole road, from pictures to a measured model",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: near misses are suggested, never corrected."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = "command" if action.dest == argparse.SUPPRESS else action.dest.replace("_", " ")
            raise unknown_name(kind, str(value), [str(choice) for choice in action.choices])

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse `argv`; an unknown option names the nearest one.

        Raises:
            UsageError: an unknown or misused option or argument.
        """
        args, extra = self.parse_known_args(argv)
        if extra:
            word = next((word for word in extra if word.startswith("-")), extra[0]).split("=")[0]
            near = suggestion(word, self.every_option())
            kind = "option" if word.startswith("-") else "argument"
            raise UsageError(
                f"unknown {kind}: `{word}`", hint=f"did you mean `{near}`?" if near else f"see `{self.prog} --help`"
            )
        return args

    def every_option(self) -> list[str]:
        """The long options of this parser and of its sub-commands."""
        names: list[str] = []
        for action in self._actions:
            names += [name for name in action.option_strings if name.startswith("--")]
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    names += cast(Parser, child).every_option()
        return names


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = _early_options(words)
    _never_fail_to_print()
    try:
        if not words or words[0] in ("-h", "--help"):
            sys.stdout.write(_help())
            return int(ExitCode.OK if words else ExitCode.USAGE)
        if words[0] in ("-V", "--version"):
            sys.stdout.write(f"clip-edge {__version__}\n")
            return int(ExitCode.OK)
        outcome = run_verb(words)
        if options.json is not None:
            _write_json(options.json, outcome.data)
        return int(outcome.code)
    except ClipEdgeError as error:
        return _fail(error, options)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output left (`| head`): nothing more to say, not even on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except Exception as error:
        return _fail(_unexpected(error), options)


def _never_fail_to_print() -> None:
    """A character that the terminal's encoding lacks is written as an escape, never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unexpected(error: Exception) -> ClipEdgeError:
    """What nobody foresaw, as an error that says where it happened; --verbose shows the whole traceback."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    wrapped = ClipEdgeError(
        f"unexpected {type(error).__name__}: {error}",
        where=f"{last.filename}:{last.lineno}",
        hint="this is a fault of clip-edge; run again with --verbose and report what it prints",
    )
    wrapped.__cause__ = error
    return wrapped


def run_verb(words: Sequence[str], console: Console | None = None) -> Outcome:
    """Run the verb `words[0]` with its options, as `main` does; a given console replaces the one of the options.

    Raises:
        ClipEdgeError: anything the verb raises; wrong options are UsageError.
    """
    name = words[0]
    if name not in VERBS:
        if name.startswith("-"):
            raise UsageError(f"unknown option: `{name}`", hint="a verb comes first; see `clip-edge --help`")
        raise unknown_name("verb", name, VERBS)
    verb = cast(Verb, importlib.import_module(f"clip_edge.commands.{name}"))
    parser = Parser(prog=f"clip-edge {name}", description=VERBS[name])
    verb.add_arguments(parser)
    leaves = list(_leaves(parser))
    for leaf in leaves:
        _add_common_options(leaf)
    args = parser.parse_strictly(words[1:])
    if args.json is not None:
        _check_json(args.json)
    console = console or Console(
        quiet=args.quiet,
        verbose=args.verbose,
        progress_bars=not args.no_progress,
        data_to_stdout=args.json != "-",
    )
    return verb.run(args, console)


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers that take options: the sub-commands of `parser`, or itself when it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                yield from _leaves(child)
            return
    yield parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("everywhere")
    group.add_argument("--json", metavar="F|-", help="write one JSON object to a file, or to stdout with -")
    group.add_argument("-q", "--quiet", action="store_true", help="no talk, only results and warnings")
    group.add_argument("-v", "--verbose", action="store_true", help="more talk, and tracebacks on errors")
    group.add_argument("--no-progress", action="store_true", help="no progress bars")


@dataclass(frozen=True)
class _EarlyOptions:
    """What error reporting needs even when the command line cannot be parsed."""

    json: str | None
    verbose: bool


def _early_options(words: list[str]) -> _EarlyOptions:
    target = None
    for i, word in enumerate(words):
        if word.startswith("--json="):
            target = word.partition("=")[2]
        elif word == "--json" and i + 1 < len(words):
            target = words[i + 1]
    return _EarlyOptions(json=target, verbose="-v" in words or "--verbose" in words)


def _fail(error: ClipEdgeError, options: _EarlyOptions) -> int:
    if options.verbose:
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.write(f"error: {printable(str(error))}\n")
    if options.json is not None:
        try:
            _write_json(options.json, {"error": error.as_dict()})
        except ClipEdgeError as second:
            if str(second) != str(error):
                sys.stderr.write(f"error: {printable(str(second))}\n")
    return int(error.exit_code)


def _write_json(target: str, data: dict[str, Any]) -> None:
    if target == "-":
        sys.stdout.write(json_bytes(data).decode())
        sys.stdout.flush()
    else:
        _check_json(target)
        write_file(Path(target), json_bytes(data))


def _check_json(target: str) -> None:
    """Raise UsageError when `target` cannot be written: asked before the work as well as after it."""
    path = Path(target)
    if target != "-" and not path.parent.is_dir():
        raise UsageError(f"no such folder: {path.parent}", hint="--json writes one file into an existing folder")
    if target != "-" and path.is_dir():
        raise UsageError(f"a folder, not a file: {path}", hint="--json writes one file")


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in VERBS.items())
    codes = "0 done, checks passed · 1 the answer is no · 2 wrong usage · 3 this machine lacks something"
    return (
        "usage: clip-edge VERB ...\n\ncompact CLIP models, from a big teacher to the edge\n\n"
        f"{verbs}\n\n`clip-edge VERB --help` explains a verb.\nexit codes: {codes} · 130 interrupted\n"
    )


if __name__ == "__main__":
    sys.exit(main())
