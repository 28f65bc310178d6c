"""Play with a trained policy, of a run that has ended or from a folder. Its code comes from installed plugins."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.config import EVAL_MAX_STEPS, read_yaml
from pgzoo.envs import ids
from pgzoo.envs.choice import choose_backend, inspect_environment
from pgzoo.errors import ConfigError, StoreError, UnfitError, UnknownName
from pgzoo.export.bundle import DESCRIPTION, TENSORS, LoadedPolicy, load_policy
from pgzoo.registry.objects import register_env
from pgzoo.tracking.missing_code import explain_missing_code
from pgzoo.training.activity import Monitor
from pgzoo.training.evaluation import evaluate
from pgzoo.training.events import EvaluationMode
from pgzoo.types import EnvRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgzoo.registry import PluginCatalog
    from pgzoo.tracking import Found, Home

__all__ = [
    "PlayablePolicy",
    "PlayedEpisodes",
    "check_count",
    "cut_episodes",
    "environment_for",
    "evaluate_policy",
    "find_policies",
    "locate",
    "policy_of_run",
]


@dataclass(frozen=True)
class PlayablePolicy:
    """A policy with its name, and settings of the run that trained it, if it comes from a run.

    `algorithm` is the one that trained it, and `max_steps` the number of steps after which that run cuts an evaluation
    episode.
    """

    name: str
    policy: LoadedPolicy
    seed: int = 0
    backend: str = "auto"
    run: Found | None = None
    max_steps: int = EVAL_MAX_STEPS
    algorithm: str | None = None

    @property
    def file_name(self) -> str:
        """The name of its files among those of its group: `s0`, or `learning_rate-0.0003-s0` in a sweep."""
        own = self.run.run_key.removeprefix(f"{self.run.group}-") if self.run else ""
        return own if re.fullmatch(r"[\w.-]*s\d+", own) else f"s{self.seed}"  # runs of a store may have any key


@dataclass(frozen=True)
class PlayedEpisodes:
    """Episodes that a policy played: where and how, their returns and lengths, `[episodes]` each.

    `cut` is how many of them were cut because they had not ended after `max_steps` steps.
    """

    playable: PlayablePolicy
    env: str
    seed: int
    mode: EvaluationMode
    max_steps: int
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    cut: int

    @property
    def warning(self) -> str | None:
        """A sentence that says how many episodes were cut, or None."""
        if not self.cut:
            return None
        return f"{self.playable.name}: {cut_episodes(self.cut, len(self.returns), self.max_steps)}"

    def origin(self) -> dict[str, Any]:
        """Return which policy played where, as JSON data."""
        run = self.playable.run
        return {
            "run_key": run.run_key if run else None,
            "run_id": run.run_id if run else None,
            "name": self.playable.name,
            "algorithm": self.playable.algorithm,
            "env": self.env,
            "seed": self.seed,
            "mode": self.mode,
        }

    def row(self) -> dict[str, Any]:
        """Return the origin and statistics of the returns and lengths, as JSON data."""
        return self.origin() | {
            "episodes": len(self.returns),
            "return_mean": float(self.returns.mean()),
            "return_std": float(self.returns.std()),
            "return_min": float(self.returns.min()),
            "return_max": float(self.returns.max()),
            "length_mean": float(self.lengths.mean()),
            "cut_episodes": self.cut,
        }

    def episode_rows(self) -> list[dict[str, Any]]:
        """Return one row per episode: the origin, and the episode's number, return and length."""
        return [
            self.origin() | {"episode": number, "return": float(total), "length": int(length)}
            for number, (total, length) in enumerate(zip(self.returns, self.lengths, strict=True), 1)
        ]


def find_policies(
    ref: str, catalog: PluginCatalog, home: Home, tracking_uri: str | None = None, command: str = ""
) -> list[PlayablePolicy]:
    """Return the policy in a folder, or those of the runs that `ref` names (see `tracking.find`).

    `command` is what the user typed.

    Raises:
        ConfigError: the folder's policy is damaged.
        UnknownName, StoreError: there is no such run, it has no policy, or the store can't be reached.
    """
    runs = locate(ref, home, tracking_uri)
    if isinstance(runs, Path):
        playable = [PlayablePolicy(runs.name, load_policy(runs, catalog))]
    else:
        with explain_missing_code(runs, catalog, command):
            playable = [policy_of_run(found, catalog) for found in runs]
    for one in playable:
        if one.policy.env is not None:
            register_env(one.policy.env.id, catalog.imports)
    return playable


def locate(ref: str, home: Home, tracking_uri: str | None = None) -> Path | list[Found]:
    """Return the folder of a saved policy that `ref` names, by itself or one of its files, or else the runs.

    Raises:
        UnknownName, StoreError: there is neither such a folder nor such a run, or the store can't be reached.
    """
    from pgzoo.tracking import find

    path = Path(ref)
    folder = path.parent if path.name in (DESCRIPTION, TENSORS) else path
    if (folder / DESCRIPTION).is_file() or (folder.is_dir() and len(path.parts) > 1):
        return folder.resolve()
    try:
        return find(ref, home, tracking_uri)
    except (UnknownName, StoreError) as error:
        why = f"has no {DESCRIPTION}" if folder.is_dir() else "doesn't exist"
        raise type(error)(
            f'{str(error).removesuffix(".")}. Nor is it a saved policy: the folder "{folder}" {why}.'
        ) from error


def policy_of_run(found: Found, catalog: PluginCatalog) -> PlayablePolicy:
    """Return the last policy of a run, with its environment. Raises StoreError if it has none."""
    settings = read_yaml(found.artifact("config.yaml")).values
    folder = found.artifact(f"policy/{DESCRIPTION}").parent
    found.artifact(f"policy/{TENSORS}")
    policy = load_policy(folder, catalog)
    policy.env = EnvRequest(
        str(settings.get("env")),
        dict(settings.get("env_kwargs") or {}),
        settings.get("max_episode_steps"),
        rows=1,
        wrappers=tuple(settings.get("wrappers") or ()),
        frame_stack=settings.get("frame_stack") or 0,
    )
    max_steps = int(settings.get("eval_max_steps", EVAL_MAX_STEPS))
    backend = str(settings.get("backend", "auto"))
    return PlayablePolicy(found.name, policy, found.seed, backend, found, max_steps, found.algorithm)


def environment_for(
    policy: LoadedPolicy, env: str | None = None, catalog: PluginCatalog | None = None, backend: str = "auto"
) -> EnvRequest:
    """Return the environment to play in: `env`, or else the one in which the policy was trained.

    Both have the wrappers of the training, which decide what the policy observes.

    Without a `catalog` gymnasium makes it, with one the backend of that name does.

    Raises:
        ConfigError: no environment is given or known.
        UnknownName: the policy's environment is in a module that isn't imported.
        UsageError: a wrapper is.
        EnvError, UnfitError: it can't be made here, or has other observations or actions than the policy.
    """
    request = policy.env
    if env is not None:
        wrappers = (policy.env.wrappers, policy.env.frame_stack) if policy.env else ((), 0)
        request = EnvRequest(env, {}, None, 1, (), False, *wrappers)
    if request is None:
        raise ConfigError("The policy doesn't say in which environment it was trained. Name one: --env ID")
    module, colon, _ = request.id.partition(":")
    if colon and env is None and module not in sys.modules:
        raise UnknownName(
            f'The policy\'s environment is in module "{module}", which is not imported. Add: --import {module}'
        )
    chosen = None
    if catalog is None:
        ids.check(request.id, request.kwargs, make=request.make)
    else:
        _, chosen = choose_backend(backend, catalog, request)
    found, expected = inspect_environment(request, chosen), policy.spec
    pairs = {
        "observations": (found.original_space, expected.original_space),
        "actions": (found.action_space, expected.action_space),
    }
    for what, (here, trained) in pairs.items():
        if here != trained:
            raise UnfitError(f"{request.id} has {what} in {here}; the policy was trained with {trained}.")
    return request._replace(masked=found.masked)


def evaluate_policy(
    playable: PlayablePolicy,
    catalog: PluginCatalog,
    *,
    episodes: int,
    mode: EvaluationMode,
    env: str | None = None,
    backend: str | None = None,
    seed: int | None = None,
    max_steps: int | None = None,
    monitor: Monitor | None = None,
    command: str = "",
) -> PlayedEpisodes:
    """Play `episodes` episodes in parallel environments.

    Every environment plays the same number of episodes or one less. The environment, the backend, the seed of the
    sampled actions and `max_steps` are by default those of the run that trained the policy; then, with the number of
    episodes of the run's final evaluation, these are the same episodes. An episode that has not ended after `max_steps`
    steps is cut there. `monitor` counts episodes and steps while they are played. `command` is what the user typed.

    Raises:
        ConfigError: `episodes`, `max_steps` or `seed` is out of range; or as `environment_for`.
        UsageError, EnvError, UnfitError: as `environment_for`; or the backend can't run the environment.
    """
    check_count("episodes", episodes)
    if max_steps is not None:
        check_count("max_steps", max_steps)
    if seed is not None and seed < 0:
        raise ConfigError(f"seed: expected 0 or a larger whole number, not {seed}.")
    run = playable.run if env is None else None  # whose code may be missing
    if backend not in (None, "auto"):
        catalog.get("env_backend", backend)  # a misspelled name isn't missing code of the run
    backend = backend or (playable.backend if env is None else "auto")
    seed, max_steps = playable.seed if seed is None else seed, max_steps or playable.max_steps
    with explain_missing_code([run] if run else [], catalog, command):
        policy, request = playable.policy, environment_for(playable.policy, env, catalog, backend)
        _, chosen = choose_backend(backend, catalog, request)
    count = min(chosen.width, episodes)
    envs: Any = chosen.open(request._replace(rows=count))
    try:
        played = evaluate(
            envs,
            count,
            policy.policy,
            policy.params,
            seeds=(seed,),
            active=np.ones(1, np.bool_),
            episodes=episodes,
            mode=mode,
            max_steps=max_steps,
            monitor=monitor,
        )
    finally:
        envs.close()
    return PlayedEpisodes(
        playable, request.id, seed, mode, max_steps, played.returns[0], played.lengths[0], int(played.cut[0])
    )


def check_count(name: str, value: object) -> None:
    """Raise ConfigError if an argument is no whole number from 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name}: expected a whole number from 1, not {value!r:.60}.")


def cut_episodes(cut: int, episodes: int, max_steps: int) -> str:
    """Return the sentence that says how many of the evaluation episodes were cut."""
    return f"{cut:,} of {episodes:,} evaluation episodes had not ended after {max_steps:,} steps and were cut there"
