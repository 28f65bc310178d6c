"""Go on with a run that was left: its state from its checkpoints, the code from installed plugins."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo import tracking
from pgzoo.config import Layer, Member, RunConfig, read_yaml
from pgzoo.config.sweep import SWEEP, Setting, parse_setting
from pgzoo.errors import CheckpointError, StoreError, UsageError
from pgzoo.launchers.protocol import ResumePoint
from pgzoo.runs.provenance import versions
from pgzoo.runs.resolve import resolve
from pgzoo.runs.runner import make_plan, run_config
from pgzoo.tracking.journal import LOCK_WAIT
from pgzoo.tracking.ledger import start_of
from pgzoo.tracking.locks import lock
from pgzoo.training import checkpoint
from pgzoo.training.checkpoint import Checkpoint
from pgzoo.training.engine import Engine
from pgzoo.training.loop import Progress

if TYPE_CHECKING:
    from pgzoo.registry import PluginCatalog
    from pgzoo.runs.result import Result
    from pgzoo.tracking import Found

__all__ = ["resume"]

_log = logging.getLogger("pgzoo")

EARLIER = Layer({"compile": "off"}, ".".join)
"""What held for runs that were begun before there was a setting for it."""


def resume(
    found: Sequence[Found],
    catalog: PluginCatalog,
    *,
    total_steps: int | None = None,
    from_step: int | None = None,
    launcher: str | None = None,
    workers: int | None = None,
    command: str = "",
    progress: str = "none",
) -> Result:
    """Go on with runs of one group, all members together, to their end or to another `total_steps`.

    Each goes on from its newest checkpoint, or from the one at `from_step`, in the same MLflow run. Seeds that had come
    to their end stay there, unless there are more steps to do; what is missing of them (evaluation, artifacts) is made.
    `launcher` and `workers` take the place of those that the run had.

    Raises:
        CheckpointError: there is no checkpoint here, it is damaged, or the settings beside it are not its own.
        StoreError: another process still writes the run.
        UsageError: a component of the run isn't installed, or its environment can't be made here.
    """
    for one in found:
        _check_alone(one)
    kept = [_load(one, from_step) for one in found]
    over: dict[str, Any] = {} if launcher is None else {"launcher": launcher, "workers": None}
    over |= {} if workers is None else {"workers": workers}
    config = _config(found, kept, catalog, total_steps, over)
    members = _members(found, config)
    each = zip(found, members, kept, strict=True)
    checkpoints = [_beginning(one, member, catalog) if c is None else c for one, member, c in each]
    _tell_what_differs(checkpoints)
    state = checkpoint.assemble([c.state for c in checkpoints])
    told = [str(c.about["status"]) for c in checkpoints]
    for one, status, at in zip(found, told, checkpoints, strict=True):
        if total_steps is not None and status != "finished" and total_steps <= at.env_steps:
            raise UsageError(f"--total-steps {total_steps}: seed {one.seed} has come to step {at.env_steps} already.")
    # who failed or was cut off tries again; who is done goes on if there are more steps to do
    again = [status in ("running", "interrupted", "failed") for status in told]
    again = [
        a or (status == "finished" and _more(config, c)) for a, status, c in zip(again, told, checkpoints, strict=True)
    ]
    standing = Progress(
        state._replace(active=np.array(again)),
        tuple("running" if a else status for a, status in zip(again, told, strict=True)),  # type: ignore[misc]
        tuple("" if a else str(c.about["reason"]) for a, c in zip(again, checkpoints, strict=True)),
        forgets=all(c.about["resume"] == "exact" for c in checkpoints if c.state.collector is None),
    )
    listeners = tuple(c.about["listeners"] for c in checkpoints)
    resume_point = ResumePoint(found[0].group, members, standing, listeners)
    return run_config(config, catalog, command=command, progress=progress, resume_point=resume_point)


def _more(config: RunConfig, at: Checkpoint) -> bool:
    steps, episodes = config.total_steps, config.total_episodes
    return (steps is None or at.env_steps < steps) and (episodes is None or int(at.state.episodes[0]) < episodes)


def _check_alone(found: Found) -> None:
    if found.path is None:
        return
    free = lock(found.path / "lock", timeout=LOCK_WAIT)  # the uploader, too, holds it for a moment
    if free is None:
        raise StoreError(f"Run {found.run_key} is being written by another process; wait for it to end.")
    free.release()


def _load(found: Found, from_step: int | None) -> Checkpoint | None:
    """Load a run's checkpoint; None if it begins at step 0: it was cut off before the first was due."""
    if found.path is None:
        raise CheckpointError(f"The checkpoints of run {found.name} ({found.run_key}) are not on this machine.")
    folder = found.path / checkpoint.FOLDER_NAME
    steps = {int(path.name.removeprefix("step-")): path for path in checkpoint.paths(folder)}
    if from_step is None:
        return checkpoint.latest(folder) if steps else None
    if from_step not in steps and from_step != 0:
        known = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(f"Run {found.name} has no checkpoint at step {from_step}; there are: {known}.")
    return checkpoint.load(steps[from_step]) if from_step in steps else None


def _beginning(found: Found, member: Member, catalog: PluginCatalog) -> Checkpoint:
    """What a checkpoint of a run before its first update would say."""
    state = Engine(make_plan(member.config, catalog, found.group, (member,))).snapshot(environments=False)
    about = {"status": "running", "reason": "", "resume": "exact", "versions": {}, "listeners": {}}
    return Checkpoint(found.path or Path(), state, about)


def _config(
    found: Sequence[Found],
    checkpoints: Sequence[Checkpoint | None],
    catalog: PluginCatalog,
    total_steps: int | None,
    given: Mapping[str, Any],
) -> RunConfig:
    """The settings of the run, with all seeds that go on. Raises CheckpointError where `config.yaml` says otherwise."""
    told, settings = _told(found, checkpoints), _settings(found)
    module, colon, _ = str(told.get("env")).partition(":")
    if colon and module not in sys.modules:
        raise UsageError(f'The run\'s environment is in module "{module}". Runs load no code: add --import {module}.')
    seeds = list(dict.fromkeys(one.seed for one in found))
    over: dict[str, Any] = {"seeds": seeds, "experiment": found[0].experiment, **given}
    if any(settings):
        over["sweep_axis"] = {key: list(dict.fromkeys(own[key] for own in settings)) for key in settings[0]}
    if found[0].tracking_uri != tracking.resolve_uri(None, tracking.Home.find()):
        over["tracking_uri"] = found[0].tracking_uri
    if total_steps is not None:
        over["total_steps"] = total_steps
    left = resolve([Layer(told, ".".join)], catalog)
    for one, setting in zip(found, settings, strict=True):
        layer = _yaml(one)
        if layer is None:
            continue
        was, now = left.at(setting).flat(), resolve([EARLIER, layer], catalog).flat()
        if total_steps is None and "total_steps" in layer.values:  # the last that was asked for
            over["total_steps"] = layer.values["total_steps"]
        for key in sorted(was.keys() | now.keys()):
            if was.get(key) != now.get(key) and key != "total_steps":
                raise CheckpointError(
                    f"Run {one.name} was left with {key} = {was.get(key)}, and its config.yaml now says "
                    f"{now.get(key)}. A run goes on as it was: put it back, or start a new run."
                )
    return resolve([Layer(told, ".".join), Layer(over, lambda path: f"--{path[0].replace('_', '-')}")], catalog)


def _settings(found: Sequence[Found]) -> list[Setting]:
    """What each run has of its own, if it was one of a sweep: it bears it as a tag."""
    starts = [start_of(one.path) if one.path else None for one in found]
    return [parse_setting(start["tags"].get(SWEEP, "")) if start else {} for start in starts]


def _members(found: Sequence[Found], config: RunConfig) -> tuple[Member, ...]:
    """The members as they were; of a sweep there may be fewer than settings times seeds."""
    return tuple(config.member(one.seed, setting) for one, setting in zip(found, _settings(found), strict=True))


def _told(found: Sequence[Found], checkpoints: Sequence[Checkpoint | None]) -> dict[str, Any]:
    """What the settings were when the run was left, or when it began."""
    for kept in checkpoints:
        if kept is not None:
            return {**EARLIER.values, **kept.about["config"]}
    layer = _yaml(found[0])
    if layer is None:
        raise CheckpointError(f"Run {found[0].name} ({found[0].run_key}) was cut off before it began. Start a new one.")
    return {**EARLIER.values, **layer.values}


def _yaml(found: Found) -> Layer | None:
    """The settings as they lie beside the run, which somebody may have changed."""
    try:
        return read_yaml(found.artifact("config.yaml"))
    except StoreError:
        return None


def _tell_what_differs(checkpoints: Sequence[Checkpoint]) -> None:
    """Say before anything happens what keeps a run from going on bit for bit."""
    now = versions()
    for name, was in {k: v for c in checkpoints for k, v in c.about["versions"].items()}.items():
        if now.get(name) != was:
            _log.warning(
                "The run was left with %s %s, and this is %s: its numbers may differ in the last bits.",
                name,
                was,
                now.get(name),
            )
    if any(c.about["resume"] != "exact" for c in checkpoints):
        if any(c.state.collector is not None for c in checkpoints):
            what = "can't go on in the middle of an episode: episodes that were open begin anew"
        else:
            what = "don't show the same after each reset by one seed: the numbers are others from here on"
        _log.warning("These environments %s.", what)
