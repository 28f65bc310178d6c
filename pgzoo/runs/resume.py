"""Resume runs: their state comes from their checkpoints, the code from installed plugins."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo import tracking
from pgzoo.config import Layer, Member, RunConfig, read_yaml
from pgzoo.config.sweep import Setting, parse_setting
from pgzoo.envs import ids
from pgzoo.envs.choice import is_foreign
from pgzoo.errors import CheckpointError, StoreError, UnknownName, UsageError
from pgzoo.launchers.protocol import ResumePoint
from pgzoo.registry.changes import changes
from pgzoo.registry.objects import register_env
from pgzoo.runs import callbacks
from pgzoo.runs.planning import make_plan
from pgzoo.runs.provenance import versions
from pgzoo.runs.resolve import resolve
from pgzoo.runs.runner import run_config
from pgzoo.runs.waiting import ProgressMode
from pgzoo.tracking.journal import LOCK_WAIT
from pgzoo.tracking.ledger import SWEEP, start_of
from pgzoo.tracking.locks import lock
from pgzoo.tracking.missing_code import explain_missing_code
from pgzoo.training import checkpoint
from pgzoo.training.checkpoint import Checkpoint
from pgzoo.training.engine import Engine
from pgzoo.training.events import Event
from pgzoo.training.loop import Control, Progress, reached_goals

if TYPE_CHECKING:
    from pgzoo.registry import PluginCatalog
    from pgzoo.runs.result import Result
    from pgzoo.tracking import Found

__all__ = ["LIMITS", "check_environment", "resume"]

_log = logging.getLogger("pgzoo")

EARLIER = Layer({"compile": "off"}, ".".join)
"""Settings of runs that were started before these settings existed."""

LIMITS = ("total_steps", "total_episodes")
"""How long a run is; `--total-steps` of a resumed run replaces both."""


def resume(
    found: Sequence[Found],
    catalog: PluginCatalog,
    *,
    total_steps: int | None = None,
    from_step: int | None = None,
    launcher: str | None = None,
    workers: int | None = None,
    rollout_workers: int | None = None,
    command: str = "",
    progress: ProgressMode = "none",
    home: tracking.Home | None = None,
    control: Control | None = None,
    on_event: Callable[[Event], None] | None = None,
    own_process: bool = False,
) -> Result:
    """Continue runs of one group, all members together, in the same MLflow runs.

    Members that were interrupted or failed continue from their checkpoints. Those that had finished continue only if
    there are more steps to do; otherwise only missing results (evaluation, artifacts) are produced.

    Args:
        found: the runs.
        catalog: where their components are looked up.
        total_steps: new total number of steps; default: unchanged.
        from_step: the step of the checkpoint to continue from; by default the newest. 0 starts again.
        launcher: replaces the launcher of the run.
        workers: replaces its number of workers.
        rollout_workers: replaces its number of rollout workers, which doesn't change the results.
        command: what the user typed, for the tracker.
        progress: how to show progress; see `RunContext`.
        home: where the runs are; by default `Home.find()`.
        control: see `run_config`.
        on_event: see `run_config`.
        own_process: see `run_config`.

    Raises:
        CheckpointError: a checkpoint is missing or damaged, or `config.yaml` differs from the settings of the run.
        StoreError: another process is still writing a run.
        UsageError: a component of the run isn't installed, or its environment can't be made.
    """
    home = home or tracking.Home.find()
    for one in found:
        _check_unlocked(one)
    starts = [start_of(one.path) if one.path else None for one in found]
    tags = [start["tags"] for start in starts if start]
    saved = [_load(one, from_step) for one in found]
    replaced: dict[str, Any] = {"verify": 0.0}  # a repetition would have to start where the run was interrupted
    if launcher is not None:
        replaced |= {"launcher": launcher, "workers": None, "cpus_per_shard": None, "gpus_per_shard": None}
    replaced |= {} if workers is None else {"workers": workers}
    replaced |= {} if rollout_workers is None else {"rollout_workers": rollout_workers}
    with explain_missing_code(found, catalog, command):
        config = _config(found, saved, catalog, home, total_steps, replaced)
    if from_step is not None and total_steps is not None:
        for one in found:
            _check_repeats_records(one, from_step, total_steps)
    for sentence in dict.fromkeys(s for one in tags for s in changes(one, catalog) + callbacks.warning(one)):
        _log.warning("%s", sentence)
    members = _members(found, config)
    each = zip(found, members, saved, strict=True)
    checkpoints = [_initial_checkpoint(one, member, catalog) if c is None else c for one, member, c in each]
    _warn_inexact(checkpoints)
    for one, c in zip(found, checkpoints, strict=True):
        if total_steps is not None and total_steps <= c.env_steps and not _has_done(one, c, total_steps):
            raise UsageError(f"--total-steps {total_steps}: seed {one.seed} has already done {c.env_steps} steps.")
    listeners, at = tuple(c.about["listeners"] for c in checkpoints), _progress(config, checkpoints)
    if total_steps is not None and not at.state.active.any() and "stopped" in at.statuses:
        row = at.statuses.index("stopped")
        raise UsageError(
            f"--total-steps {total_steps}: seed {found[row].seed} has stopped after {checkpoints[row].env_steps} "
            f"steps, and stays stopped in a resumed run: {at.reasons[row]}. To train its policy for longer, start a "
            f"new run with --init-from {found[row].run_key}."
        )
    resume_point = ResumePoint(found[0].group, members, at, listeners)
    return run_config(
        config,
        catalog,
        command=command,
        progress=progress,
        resume_point=resume_point,
        home=home,
        control=control,
        on_event=on_event,
        own_process=own_process,
    )


def _progress(config: RunConfig, checkpoints: Sequence[Checkpoint]) -> Progress:
    """Return the progress of all members: those that have steps left to do are active again."""
    active = [_continues(config, c) for c in checkpoints]
    both = list(zip(active, checkpoints, strict=True))
    return Progress(
        checkpoint.assemble([c.state for c in checkpoints])._replace(active=np.array(active)),
        tuple("running" if runs else c.about["status"] for runs, c in both),
        tuple("" if runs else str(c.about["reason"]) for runs, c in both),
        forgets=all(c.about["resume"] == "exact" for c in checkpoints if c.state.collector is None),
    )


def _continues(config: RunConfig, at: Checkpoint) -> bool:
    """Return whether a member is trained further. One that `max_minutes` has ended is, as this limit restarts."""
    match at.about["status"]:
        case "finished":
            return _has_steps_left(config, at)
        case "stopped":
            by_clock = config.max_minutes is not None and not reached_goals(config, at.state)[0]
            return by_clock and _has_steps_left(config, at)
    return True


def _has_steps_left(config: RunConfig, at: Checkpoint) -> bool:
    steps, episodes = config.total_steps, config.total_episodes
    return (steps is None or at.env_steps < steps) and (episodes is None or int(at.state.episodes[0]) < episodes)


def _check_unlocked(found: Found) -> None:
    """Raise StoreError if another process is writing the run, or its folder can't be written."""
    if found.path is None:
        return
    try:
        free = lock(found.path / "lock", timeout=LOCK_WAIT)  # the uploader holds it briefly, too
    except OSError as error:
        raise StoreError(
            f"Can't write to the folder of run {found.run_key}, {found.path}: {error.strerror}."
        ) from error
    if free is None:
        raise StoreError(f"Run {found.run_key} is being written by another process; wait for it to end.")
    free.release()


def _load(found: Found, from_step: int | None) -> Checkpoint | None:
    """Load the checkpoint of a run; None for a run that was stopped before the first one and starts at 0."""
    if found.path is None:
        raise CheckpointError(f"The checkpoints of run {found.name} ({found.run_key}) are not on this machine.")
    folder = found.path / checkpoint.FOLDER_NAME
    steps = {checkpoint.step_of(path): path for path in checkpoint.paths(folder)}
    if from_step is None:
        return checkpoint.latest(folder) if steps else None
    if from_step not in steps and from_step != 0:
        known = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(f"Run {found.name} has no checkpoint at step {from_step}; there are: {known}.")
    return checkpoint.load(steps[from_step]) if from_step in steps else None


def _check_repeats_records(found: Found, from_step: int, total_steps: int) -> None:
    """Raise UsageError if a run repeats steps that are recorded already, but with another `total_steps`.

    The journal keeps its records of these steps. They would be wrong, because an annealed learning rate depends on
    `total_steps`.
    """
    layer = _config_yaml(found)
    newest = max(map(checkpoint.step_of, checkpoint.paths((found.path or Path()) / checkpoint.FOLDER_NAME)), default=0)
    if layer is not None and from_step < newest and total_steps != layer.values.get("total_steps"):
        raise UsageError(
            f"--from-step {from_step}: run {found.name} has records up to step {newest} or later. With another "
            "--total-steps, these steps would be trained differently. Give only one of the two options, or start a "
            "new run."
        )


def _initial_checkpoint(found: Found, member: Member, catalog: PluginCatalog) -> Checkpoint:
    """Return what a checkpoint before the first update would hold."""
    with contextlib.closing(Engine(make_plan(member.config, catalog, found.group, (member,)))) as engine:
        state = engine.snapshot(environments=False)
    about = {"status": "running", "reason": "", "resume": "exact", "versions": {}, "listeners": {}}
    return Checkpoint(found.path or Path(), state, about)


def _config(
    found: Sequence[Found],
    checkpoints: Sequence[Checkpoint | None],
    catalog: PluginCatalog,
    home: tracking.Home,
    total_steps: int | None,
    replaced: Mapping[str, Any],
) -> RunConfig:
    """Return the settings of the run, for all members that are resumed.

    Raises:
        CheckpointError: `config.yaml` differs from the settings in the checkpoints.
        UnknownName: a component of the run isn't loaded, or the module of its environment isn't imported.
        EnvError: no imported module registers its environment.
    """
    saved, settings = _saved_settings(found, checkpoints), _sweep_settings(found)
    check_environment(str(saved.get("env")), catalog, str(saved.get("backend", "auto")))
    seeds = list(dict.fromkeys(one.seed for one in found))
    over: dict[str, Any] = {"seeds": seeds, "experiment": found[0].experiment, **replaced}
    if any(settings):
        over["sweep_axis"] = {key: list(dict.fromkeys(setting[key] for setting in settings)) for key in settings[0]}
    if found[0].tracking_uri != tracking.resolve_uri(None, home):
        over["tracking_uri"] = found[0].tracking_uri
    if total_steps is not None:
        over["total_steps"] = total_steps
    base = resolve([Layer(saved, ".".join)], catalog)
    for one, setting in zip(found, settings, strict=True):
        layer = _config_yaml(one)
        if layer is None:
            continue
        was, now = base.at(setting).flat(), resolve([EARLIER, layer], catalog).flat()
        if total_steps is None:  # keep the limits that were requested last
            over |= {key: layer.values[key] for key in LIMITS if key in layer.values}
        for key in sorted(was.keys() | now.keys()):
            may_change = key == "total_steps" or (key == "total_episodes" and key not in layer.values)
            if was.get(key) != now.get(key) and not may_change:
                raise CheckpointError(
                    f"Run {one.name} was trained with {key} = {was.get(key)}, but its config.yaml now has "
                    f"{now.get(key)}. Only total_steps can change: restore config.yaml, or start a new run."
                )
    return resolve([Layer(saved, ".".join), Layer(over, lambda path: f"--{path[0].replace('_', '-')}")], catalog)


def check_environment(env_id: str, catalog: PluginCatalog, backend: str) -> None:
    """Check that the environment of a run is registered, without making it.

    Raises:
        UnknownName: the backend isn't loaded, or the environment is in a module that the user didn't have imported.
        EnvError: no imported module registers it.
    """
    module, colon, _ = env_id.partition(":")
    if colon and module not in sys.modules:
        raise UnknownName(
            f'The environment of the run is in module "{module}", which is not imported. Add: --import {module}'
        )
    register_env(env_id, catalog.imports)
    if not is_foreign(backend, catalog):
        ids.find(env_id)


def _sweep_settings(found: Sequence[Found]) -> list[Setting]:
    """Return the swept settings of each run, from its tag; empty for a run that wasn't part of a sweep."""
    starts = [start_of(one.path) if one.path else None for one in found]
    return [parse_setting(start["tags"].get(SWEEP, "")) if start else {} for start in starts]


def _members(found: Sequence[Found], config: RunConfig) -> tuple[Member, ...]:
    """Return the members of the runs; of a sweep they may be fewer than settings times seeds."""
    return tuple(config.member(one.seed, setting) for one, setting in zip(found, _sweep_settings(found), strict=True))


def _saved_settings(found: Sequence[Found], checkpoints: Sequence[Checkpoint | None]) -> dict[str, Any]:
    """Return the settings in a checkpoint of the run, or without one those in its `config.yaml`."""
    for saved in checkpoints:
        if saved is not None:
            return {**EARLIER.values, **saved.about["config"]}
    layer = _config_yaml(found[0])
    if layer is None:
        raise CheckpointError(
            f"Run {found[0].name} ({found[0].run_key}) failed before training started. Start a new run."
        )
    return {**EARLIER.values, **layer.values}


def _config_yaml(found: Found) -> Layer | None:
    """Return the settings in the `config.yaml` of a run, which the user may have edited; None if there is none."""
    try:
        return read_yaml(found.artifact("config.yaml"))
    except StoreError:
        return None


def _has_done(found: Found, checkpoint: Checkpoint, total_steps: int) -> bool:
    """Return whether a run has finished, and had to do no more than `total_steps`: then nothing is left to do.

    It may have done more of them, because the last update completes episodes.
    """
    own = read_yaml(found.artifact("config.yaml")).values.get("total_steps")
    return checkpoint.about["status"] == "finished" and own is not None and own <= total_steps


def _warn_inexact(checkpoints: Sequence[Checkpoint]) -> None:
    """Warn if the resumed run won't be bit-identical to an uninterrupted one."""
    now = versions()
    for name, was in {k: v for c in checkpoints for k, v in c.about["versions"].items()}.items():
        if now.get(name) != was:
            _log.warning(
                "The run was trained with %s %s, and this is %s: its numbers may differ in the last bits.",
                *(name, was, now.get(name)),
            )
    if any(c.about["resume"] != "exact" for c in checkpoints):
        if any(c.state.collector is not None for c in checkpoints):
            _log.warning(
                "These environments can't be restored in the middle of an episode: open episodes are restarted."
            )
        else:
            _log.warning(
                "These environments do not start identically after each reset with the same seed: "
                "the numbers will differ from those of an uninterrupted run."
            )
