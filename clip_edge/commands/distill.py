"""`clip-edge distill`: train a student with a recipe, or say what would be done."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clip_edge.cli import Outcome
from clip_edge.config import load_config, to_toml
from clip_edge.console import Console

if TYPE_CHECKING:
    from clip_edge.distill.recipes import RecipeInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="see `clip-edge list recipes`")
    parser.add_argument("--data", type=Path, required=True, help="data set: shards, CSV or TSV file, class folders")
    parser.add_argument("--student", required=True, metavar="NAME|F.json", help="see `clip-edge list students`")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run; made here")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="F.toml|PRESET",
        help="settings that differ from the recipe's own; or the name of published ones, as in mobileclip-b",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, as in optimizer.lr=3e-4"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN after its last checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and do nothing")


def run(args: argparse.Namespace, console: Console) -> Outcome:
    from clip_edge.distill import recipes

    info, recipe = recipes.find(args.recipe), recipes.load(args.recipe)
    config = load_config(recipe.Config, _sources(args, info), args.set)
    if args.dry_run:
        return _dry_run(args, config, console)
    started_s = time.monotonic()
    student = recipe.run(
        config, data=args.data, student=args.student, out=args.out, resume=args.resume, console=console
    )
    return _finished(args, student, time.monotonic() - started_s, console)


def _sources(args: argparse.Namespace, info: RecipeInfo) -> list[Path]:
    """The recipe's defaults (or, to resume, the settings of the run itself), then the user's file or a preset."""
    started = args.out / "recipe.toml"
    base = started if args.resume and started.is_file() else info.defaults
    if args.config is None:
        return [base]
    chosen: Path = args.config if args.config.exists() else info.presets.get(str(args.config), args.config)
    return [base, chosen]


def _dry_run(args: argparse.Namespace, config: Any, console: Console) -> Outcome:
    """The resolved settings as TOML on stdout, everything else on stderr. Loads no torch, but to check knowledge."""
    from clip_edge.distill import recipes
    from clip_edge.distill.data.readers import open_dataset
    from clip_edge.distill.models.spec import load_spec
    from clip_edge.distill.run_folder import LAYOUT
    from clip_edge.files import refuse_existing

    spec = load_spec(args.student)
    if not args.resume:
        refuse_existing(args.out)
    train_set = open_dataset(args.data, "train")
    samples = len(train_set)
    if config.batch_size > samples:
        from clip_edge.distill.data.loader import steps_per_epoch

        steps_per_epoch(train_set, config.batch_size)  # says why not; loads torch, so only now
    recipe = recipes.load(args.recipe)
    if getattr(config, "knowledge", "") or getattr(recipe, "READS_MODELS", False):
        cast("recipes.TaughtRecipe", recipe).check(config, train_set)
    epochs = config.steps * config.batch_size / samples
    console.out(to_toml(config).rstrip())
    count = "" if spec.parameters is None else f", {spec.parameters.image:,} + {spec.parameters.text:,} parameters"
    console.say(f"\nstudent: {spec.name}, {spec.image.size} pixels{count} (image + text)")
    console.say(f"data: {samples:,} samples; {config.steps:,} steps of {config.batch_size} are {epochs:.1f} epochs")
    console.say(f"{args.out} would hold:")
    for name, meaning in LAYOUT.items():
        console.say(f"  {name:<14} {meaning}")
    return Outcome(
        {
            "dry_run": True,
            "recipe": args.recipe,
            "student": spec.name,
            "samples": samples,
            "steps": config.steps,
            "epochs": epochs,
            "config": to_toml(config),
            "files": [str(args.out / name) for name in LAYOUT],
        }
    )


def _finished(args: argparse.Namespace, student: Path, elapsed_s: float, console: Console) -> Outcome:
    from clip_edge.distill.metrics import read_metrics

    rows = read_metrics(args.out / "metrics.jsonl")
    last = {name: value for name, value in rows[-1].items() if name != "step"}
    console.out(f"student: {student}")
    shown = {name: value for name, value in last.items() if "/" in name or name.endswith("_loss")}
    console.table(("metric", ">value"), [(name, f"{value:.4g}") for name, value in shown.items()])
    return Outcome(
        {
            "recipe": args.recipe,
            "run": str(args.out),
            "student": str(student),
            "steps": rows[-1]["step"],
            "elapsed_s": elapsed_s,
            "metrics": last,
        }
    )
