"""Start a run with the weights of a trained policy (`--init-from`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pgzoo.config import RunConfig
from pgzoo.errors import ConfigError, UnfitError
from pgzoo.export.bundle import DESCRIPTION, TENSORS, LoadedPolicy, load_policy
from pgzoo.ops.normalize import NormalizedPolicy
from pgzoo.play.evaluation import locate
from pgzoo.protocols import Policy
from pgzoo.registry import PluginCatalog
from pgzoo.tracking import NO_STORE, Home
from pgzoo.training.plan import CRITIC, with_state_names
from pgzoo.types import Params

__all__ = ["find_sources", "load_initial"]

_log = logging.getLogger("pgzoo")

MAX_SHOWN = 12
"""Runs that a message names."""


def find_sources(ref: str, seeds: Sequence[int], tracking_uri: str | None = None) -> tuple[str, tuple[Path, ...]]:
    """Return a lasting name of the run or folder that `ref` names, and the folder of the policy for each seed.

    One run or folder serves all seeds. Of several runs, such as a group, each seed takes the run of the same seed.

    Raises:
        ConfigError: there are several runs, and not exactly one for each seed.
        UnknownName, StoreError: there is no such run, it has no policy, or the store can't be reached.
    """
    runs = locate(ref, Home.find(), None if tracking_uri == NO_STORE else tracking_uri)
    if isinstance(runs, Path):
        return str(runs), (runs,) * len(seeds)
    chosen = [runs if len(runs) == 1 else [run for run in runs if run.seed == seed] for seed in seeds]
    for seed, found in zip(seeds, chosen, strict=True):
        if len(found) != 1:
            known = ", ".join(run.run_key for run in runs[:MAX_SHOWN]) + ", ..." * (len(runs) > MAX_SHOWN)
            raise ConfigError(f"init_from: {ref} has {len(found)} runs of seed {seed}. Name one run of: {known}.")
    folders = []
    for [run] in chosen:
        folders.append(run.artifact(f"policy/{DESCRIPTION}").parent)
        run.artifact(f"policy/{TENSORS}")
    return (runs[0].run_key or runs[0].run_id or ref) if len(runs) == 1 else runs[0].group, tuple(folders)


def load_initial(config: RunConfig, policy: Policy, seeds: Sequence[int], catalog: PluginCatalog) -> tuple[str, Params]:
    """Return a lasting name of what `init_from` names, and the initial tensors by their names in the state, `[S, ...]`.

    They are the weights and the observation normalizer of the policy. A critic isn't saved with a policy, so that it
    starts with new weights.

    Raises:
        UnfitError: the tensors of that policy have other names or shapes than those of `policy`.
        ConfigError, UnknownName, StoreError: as `find_sources`; also if the files of the policy are damaged.
    """
    assert config.init_from is not None
    name, folders = find_sources(config.init_from, seeds, config.tracking_uri)
    loaded = {folder: load_policy(folder, catalog) for folder in dict.fromkeys(folders)}
    for one in loaded.values():
        _check_fit(one, config, policy)
    each = [loaded[folder].params for folder in folders]
    return name, with_state_names({key: torch.cat([params[key] for params in each]) for key in each[0]})


def _check_fit(source: LoadedPolicy, config: RunConfig, policy: Policy) -> None:
    """Raise UnfitError if a saved policy has other tensors than the run's; warn if other settings differ."""
    head = f"init_from {config.init_from}"
    if source.component.name != config.policy.name:
        raise UnfitError(
            f"{head}: its policy is {source.component.name}, and that of this run is {config.policy.name}. "
            f"Give policy {source.component.name}."
        )
    if isinstance(source.policy, NormalizedPolicy) != config.normalize_obs:
        state = "without normalize_obs, and this run has it" if config.normalize_obs else "with normalize_obs"
        remedy = "Set it to false." if config.normalize_obs else "Set it to true: the weights expect such observations."
        raise UnfitError(f"{head}: its policy was trained {state}. {remedy}")
    made = policy.init(np.random.default_rng(0)) | getattr(policy, "buffers", dict)()
    here = {name: tuple(value.shape) for name, value in made.items() if not name.startswith(CRITIC)}
    there = {name: tuple(value.shape[1:]) for name, value in source.params.items()}
    unlike = [name for name in sorted(here.keys() | there.keys()) if here.get(name) != there.get(name)]
    if unlike:
        shown = "; ".join(f"{name} is {_shape(there, name)} there and {_shape(here, name)} here" for name in unlike[:4])
        raise UnfitError(
            f"{head}: its policy has other shapes than that of this run: {shown}. Choose the same policy settings, "
            "observations and actions."
        )
    theirs, mine = source.component.nested(), config.policy.nested()
    for key in sorted(theirs.keys() & mine.keys()):
        if theirs[key] != mine[key]:
            _log.warning("%s: its policy was trained with %s = %s; here it is %s.", head, key, theirs[key], mine[key])


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return " x ".join(map(str, shapes[name])) or "one number" if name in shapes else "missing"
