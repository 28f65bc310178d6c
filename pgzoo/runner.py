"""Run: resolve names, check everything, train, and relay each event to the listeners.

The one file that knows both the plugins and the training.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgzoo.config import RunConfig
from pgzoo.engine import Plan
from pgzoo.errors import UnfitError
from pgzoo.protocols import EnvBackend, EnvRequest

if TYPE_CHECKING:
    from pgzoo.registry import Catalog

__all__ = ["make_plan"]


def make_plan(config: RunConfig, catalog: Catalog, group: str = "") -> Plan:
    """Turn a resolved config into the objects that `training.train` needs; nothing is created on disk.

    Raises:
        EnvError: the environment can't be made here.
        UnfitError: a component doesn't fit another.
    """
    from pgzoo.envs.single import make_single
    from pgzoo.types import Spec

    request = EnvRequest(config.env, config.env_kwargs, config.max_episode_steps, len(config.seeds) * config.num_envs)
    backend = _choose_backend(config, catalog, request)
    env = make_single(request)
    spec = Spec(env.observation_space, env.action_space)
    env.close()
    algorithm = catalog.get("algorithm", config.algorithm).load()()
    collect = algorithm.collect
    group = group or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    return Plan(
        config=config,
        algorithm=algorithm,
        policy=catalog.get("policy", config.policy.name).load()(config.policy.settings, spec),
        estimator=catalog.get("estimator", config.estimator.name).load(),
        collection=collect(config.settings) if callable(collect) else collect,
        backend=backend,
        group=group,
        run_keys=tuple(f"{group}-s{seed}" for seed in config.seeds),
    )


def _choose_backend(config: RunConfig, catalog: Catalog, request: EnvRequest) -> EnvBackend:
    """`auto` takes the native environments where they fit, else sync."""
    if config.backend == "auto":
        native: EnvBackend = catalog.get("env_backend", "native").load()()
        return catalog.get("env_backend", "sync").load()() if native.fits(request) else native  # type: ignore[no-any-return]
    backend: EnvBackend = catalog.get("env_backend", config.backend).load()()
    if reason := backend.fits(request):
        raise UnfitError(f'Backend "{config.backend}" can\'t run {config.env}: {reason}. Use --backend auto.')
    return backend
