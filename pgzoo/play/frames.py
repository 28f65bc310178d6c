"""Evaluations of trained policies as data frames: `pgzoo.evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.play.evaluation import PlayablePolicy, evaluate_policy, find_policies

if TYPE_CHECKING:
    import pandas as pd

    from pgzoo.registry import PluginCatalog
    from pgzoo.training.events import EvaluationMode

__all__ = ["evaluate", "evaluate_all"]

_log = logging.getLogger("pgzoo")


def evaluate(
    what: str | Path,
    *,
    episodes: int = 100,
    deterministic: bool = False,
    per_episode: bool = False,
    env: str | None = None,
    backend: str | None = None,
    seed: int | None = None,
    max_steps: int | None = None,
    tracking_uri: str | None = None,
    imports: Sequence[str | Path] = (),
    no_plugin: Sequence[str] = (),
) -> pd.DataFrame:
    """Evaluate trained policies, as `pgzoo evaluate` does.

    Args:
        what: A run (its MLflow run id, run key, group or name) or a folder with a saved policy. A group or a name
            may have several seeds.
        episodes: Number of episodes per policy. Their initial states are those of the run's own evaluations.
        deterministic: Take the mode of the policy instead of sampling actions.
        per_episode: Return one row per episode instead of one row per policy.
        env: Evaluate in this environment instead of the one that the policy was trained in.
        backend: How environments run; by default as in the run.
        seed: Seed of the sampled actions; by default the seed of the run.
        max_steps: Steps after which an episode that has not ended is cut, with a warning; by default as in the run.
        tracking_uri: MLflow store to search if the run is not on this machine.
        imports: Modules or .py files to import first.
        no_plugin: Names of plugins to leave out.

    Returns:
        One row per policy: its run, name, algorithm, environment, seed, mode, and statistics of the returns and
        lengths. With `per_episode`, one row per episode with its return and length.

    Raises:
        UnknownName, StoreError: There is no such run, or it has no policy.
        ConfigError: The saved policy is damaged, or `episodes`, `max_steps` or `seed` is out of range.
        EnvError, UnfitError: The environment can't be created, or has other spaces than the policy.
    """
    from pgzoo.registry import discover
    from pgzoo.tracking import Home

    catalog = discover(blocked=no_plugin, imports=imports)
    policies = find_policies(str(what), catalog, Home.find(), tracking_uri)
    mode: EvaluationMode = "greedy" if deterministic else "sampled"
    return evaluate_all(
        policies,
        catalog,
        episodes=episodes,
        mode=mode,
        per_episode=per_episode,
        env=env,
        backend=backend,
        seed=seed,
        max_steps=max_steps,
    )


def evaluate_all(
    policies: Sequence[PlayablePolicy],
    catalog: PluginCatalog,
    *,
    episodes: int,
    mode: EvaluationMode,
    per_episode: bool = False,
    env: str | None = None,
    backend: str | None = None,
    seed: int | None = None,
    max_steps: int | None = None,
) -> pd.DataFrame:
    """Evaluate each policy and return a data frame with one row per policy or per episode; see `evaluate`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for playable in policies:
        played = evaluate_policy(
            playable, catalog, episodes=episodes, mode=mode, env=env, backend=backend, seed=seed, max_steps=max_steps
        )
        if played.warning:
            _log.warning("%s", played.warning)
        rows += played.episode_rows() if per_episode else [played.row()]
    return pd.DataFrame(rows)
