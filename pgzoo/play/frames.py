"""Evaluations of trained policies as data frames: `pgzoo.evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.play.evaluation import PlayablePolicy, cut_episodes, environment_for, evaluate_policy, find_policies

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
    imports: Sequence[str] = (),
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
        One row per policy: name, algorithm, environment, seed, mode and statistics of the returns. With
        `per_episode`, one row per episode with its return and length.

    Raises:
        UnknownName, StoreError: There is no such run, or it has no policy.
        ConfigError: The saved policy is damaged.
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
    for one in policies:
        used = backend or (one.backend if env is None else "auto")
        where = environment_for(one.policy, env, catalog, used)
        drawn = one.seed if seed is None else seed
        limit = max_steps or one.max_steps
        returns, lengths, cut = evaluate_policy(
            one.policy, where, catalog, episodes=episodes, mode=mode, seed=drawn, backend=used, max_steps=limit
        )
        if cut:
            _log.warning("%s: %s", one.name, cut_episodes(cut, len(returns), limit))
        known = {
            "name": one.name,
            "algorithm": one.run.algorithm if one.run else None,
            "env": where.id,
            "seed": drawn,
            "mode": mode,
        }
        if per_episode:
            rows += [
                {**known, "episode": number, "return": float(total), "length": int(length)}
                for number, (total, length) in enumerate(zip(returns, lengths, strict=True), 1)
            ]
        else:
            rows.append(
                {
                    **known,
                    "episodes": len(returns),
                    "return_mean": float(returns.mean()),
                    "return_std": float(returns.std()),
                    "return_min": float(returns.min()),
                    "return_max": float(returns.max()),
                    "length_mean": float(lengths.mean()),
                }
            )
    return pd.DataFrame(rows)
