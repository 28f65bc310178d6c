"""Play with a policy that is there: of a run that is over, or in a folder. Its code comes from installed plugins."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.config import read_yaml
from pgzoo.envs import info
from pgzoo.envs.choice import choose_backend, look
from pgzoo.errors import ConfigError, UnfitError, UsageError
from pgzoo.export.bundle import DESCRIPTION, TENSORS, LoadedPolicy, load_policy
from pgzoo.training import rollout
from pgzoo.training.events import EvaluationMode
from pgzoo.types import EnvRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgzoo.registry import PluginCatalog
    from pgzoo.tracking import Found, Home

__all__ = ["PlayablePolicy", "evaluate_policy", "find_policies", "place", "policy_of_run"]


@dataclass(frozen=True)
class PlayablePolicy:
    """A policy, and how to play with it: with the seed and on the backend of its run, where it has one."""

    name: str
    policy: LoadedPolicy
    seed: int = 0
    backend: str = "auto"
    run: Found | None = None


def find_policies(
    ref: str, catalog: PluginCatalog, home: Home, tracking_uri: str | None = None
) -> list[PlayablePolicy]:
    """Return the policy in a folder, or those of the runs that `ref` names (see `tracking.find`).

    Raises:
        ConfigError: the folder's policy is damaged.
        UnknownName, StoreError: there is no such run, it has no policy, or the store can't be reached.
    """
    from pgzoo.tracking import find

    path = Path(ref)
    folder = path.parent if path.name in (DESCRIPTION, TENSORS) else path
    if (folder / DESCRIPTION).is_file() or (folder.is_dir() and len(path.parts) > 1):
        return [PlayablePolicy(folder.resolve().name, load_policy(folder, catalog))]
    return [policy_of_run(found, catalog) for found in find(ref, home, tracking_uri)]


def policy_of_run(found: Found, catalog: PluginCatalog) -> PlayablePolicy:
    """Return the last policy of a run, with its environment. Raises StoreError if it has none."""
    said = read_yaml(found.artifact("config.yaml")).values
    folder = found.artifact(f"policy/{DESCRIPTION}").parent
    found.artifact(f"policy/{TENSORS}")
    policy = load_policy(folder, catalog)
    policy.env = EnvRequest(
        str(said.get("env")), dict(said.get("env_kwargs") or {}), said.get("max_episode_steps"), rows=1
    )
    return PlayablePolicy(found.name, policy, found.seed, str(said.get("backend", "auto")), found)


def place(
    policy: LoadedPolicy, env: str | None = None, catalog: PluginCatalog | None = None, backend: str = "auto"
) -> EnvRequest:
    """Return where to play: in the environment `env`, or where the policy learned; without a `catalog` gymnasium's own.

    Raises:
        ConfigError: nobody says where.
        UsageError: it lies in a module that nobody imported: a policy loads no code.
        EnvError, UnfitError: it can't be made here, or shows or takes something else than the policy.
    """
    where = policy.env if env is None else EnvRequest(env, {}, None, 1)
    if where is None:
        raise ConfigError("The policy doesn't say in which environment it learned. Name one: --env ID")
    module, colon, _ = where.id.partition(":")
    if colon and env is None and module not in sys.modules:
        raise UsageError(f'The policy\'s environment is in module "{module}". It loads no code: add --import {module}.')
    kind = None
    if catalog is None:
        info.check(where.id, where.kwargs)
    else:
        _, kind = choose_backend(backend, catalog, where)
    there, own = look(where, kind), policy.spec
    pairs = {
        "shows": (there.original_space, own.original_space),
        "takes": (there.action_space, own.action_space),
    }
    for what, (found, known) in pairs.items():
        if found != known:
            raise UnfitError(f"{where.id} {what} {found}; the policy was made for {known}.")
    return where


def evaluate_policy(
    policy: LoadedPolicy,
    where: EnvRequest,
    catalog: PluginCatalog,
    *,
    episodes: int,
    mode: EvaluationMode,
    seed: int = 0,
    backend: str = "auto",
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the returns and lengths of `episodes` episodes, `[episodes]` each, in parallel environments.

    `where` is what `place` gives. Every environment plays the same number of episodes or one less. With the seed and
    the number of episodes of a run's final evaluation, these are the same episodes.

    Raises:
        UnfitError: the backend can't run the environment.
    """
    _, kind = choose_backend(backend, catalog, where)
    count = min(kind.width, episodes)
    envs: Any = kind.open(where._replace(rows=count))
    try:
        played = rollout.evaluate(
            envs,
            count,
            policy.policy,
            policy.params,
            seeds=(seed,),
            active=np.ones(1, np.bool_),
            episodes=episodes,
            mode=mode,
        )
    finally:
        envs.close()
    return played.returns[0], played.lengths[0]
