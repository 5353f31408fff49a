"""The same shards on a Ray cluster: a task each, the same bytes as in one process, whatever dies in between.

Every machine must see DATA, OUT and the teachers under the same paths.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import torch

from clip_edge.console import SILENT, Console
from clip_edge.distill.reinforce.engine import Options, Work, begin, finish, make_shard, prepare
from clip_edge.distill.reinforce.manifest import NAME, FileRecord, Manifest, refuse_other_job, write_manifest
from clip_edge.distill.reinforce.shards import Shard
from clip_edge.distill.reinforce.sidecar import Skipped
from clip_edge.errors import UnavailableError

RETRIES = 5  # of a task whose worker died; a task continues where the last one ended

Done = tuple[FileRecord, tuple[Skipped, ...]]


def reinforce_on_ray(
    options: Options, work: Work, *, address: str | None = None, console: Console = SILENT
) -> Manifest:
    """Make every sidecar that is missing, on the cluster at `address` (or RAY_ADDRESS), or on a local one.

    Raises:
        ArtifactError: the folder holds sidecars of another job, or a machine has other packages or teachers.
        UnavailableError: Ray is not installed, there is no cluster at `address`, or workers keep dying.
    """
    ray = import_ray()
    manifest, todo = begin(work)
    connect(ray, address)
    try:
        task = ray.remote(max_retries=RETRIES, num_cpus=work.job.threads, num_gpus=_gpus(work))(_on_worker)
        shared = ray.put((_absolute(options), work.job))
        waiting = {task.remote(shared, shard): shard for shard in todo}
        with console.progress("reinforce", len(work.dataset), "pictures") as meter:
            meter.advance(len(work.dataset) - sum(len(shard) for shard in todo))
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting))
                shard = waiting.pop(ready)
                manifest = manifest.with_file(*_result(ray, ready, shard))
                write_manifest(work.folder, manifest)
                meter.advance(len(shard))
    finally:
        ray.shutdown()
    return finish(work, manifest)


def import_ray() -> Any:
    """The package ray, an extra of clip-edge.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as problem:
        raise UnavailableError("--engine ray needs the package ray", hint="pip install 'clip-edge[ray]'") from problem


def connect(ray: Any, address: str | None) -> None:
    """Join the cluster at `address`, or the one that RAY_ADDRESS names, or start one on this machine."""
    try:
        local = {} if address else {"include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, ValueError, RuntimeError) as problem:
        raise UnavailableError(
            f"no Ray cluster at {address or 'RAY_ADDRESS'}: {str(problem).splitlines()[0]}",
            hint="start one with `ray start --head`, or leave --ray-address away to use this machine",
        ) from problem


def _gpus(work: Work) -> int:
    return int(any(teacher.device.type == "cuda" for teacher in work.teachers))


def _absolute(options: Options) -> Options:
    """The options with paths that mean the same in another process."""
    from dataclasses import replace

    out = None if options.out is None else options.out.absolute()
    teachers = tuple(_absolute_spec(spec) for spec in options.teachers)
    captioner = None if options.captioner is None else _absolute_spec(options.captioner)
    return replace(options, data=options.data.absolute(), out=out, teachers=teachers, captioner=captioner)


def _absolute_spec(spec: str) -> str:
    head, colon, tail = spec.rpartition(":")
    return f"{head}{colon}{Path(tail).absolute()}" if Path(tail).exists() else spec


def _on_worker(shared: tuple[Options, Any], shard: Shard) -> Done:
    options, job = shared
    torch.set_num_threads(job.threads)  # sums depend on it in the last bit
    work = _prepared(options)
    refuse_other_job(job, work.job, work.folder / NAME)
    return make_shard(work, shard)


_prepared = functools.lru_cache(maxsize=1)(prepare)  # a worker does many shards with the same models


def _result(ray: Any, ready: Any, shard: Shard) -> Done:
    try:
        done: Done = ray.get(ready)
        return done
    except ray.exceptions.RayTaskError as problem:
        raise (problem.cause or problem) from None
    except ray.exceptions.RayError as problem:
        raise UnavailableError(
            f"the worker of {shard.name} died {RETRIES + 1} times: {str(problem).splitlines()[0]}",
            hint="run it again: it continues; a smaller --batch-size needs less memory",
        ) from problem
