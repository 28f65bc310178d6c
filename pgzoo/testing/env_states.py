"""The checks of environment states, which save and restore environments."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np

from pgzoo.envs import state
from pgzoo.envs.checks import sample_action
from pgzoo.envs.choice import make_state
from pgzoo.envs.single import action_mask, make_single
from pgzoo.protocols import EnvState
from pgzoo.registry.files import module_of
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name
from pgzoo.types import EnvRequest

__all__ = ["CHECKS"]

CANDIDATES = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "Hopper-v5")
"""Environments of gymnasium that are tried; others are those of the plugin's own package."""
MOST = 8
"""How many environments are compared at most."""
SEARCH_SECONDS = 5.0
"""How long all other registered environments are tried if none of these fits."""
SAVED_AFTER, COMPARED_STEPS = (1, 12), 60
PARTS = ("observation", "reward", "terminated", "truncated", "action mask")


def continues_exactly(target: CheckTarget) -> None:
    """A new environment that is restored to a state saved in the middle of an episode continues bit for bit."""
    with target.errors_fail_check("to be created", "See pgzoo.protocols.EnvState."):
        adapter = make_state(target.component)
    fitting = _fitting(target, adapter)
    if not fitting:
        raise NotApplicable("it fits no environment that is registered with gymnasium here")
    for env_id in fitting:
        for steps in SAVED_AFTER:
            with target.errors_fail_check(f"to save and restore {env_id}", "See pgzoo.protocols.EnvState."):
                difference = _difference(adapter, env_id, steps)
            target.expect(
                not difference,
                f"restores {env_id}, saved after step {steps}, to another state: {difference}",
                "Return everything that later steps depend on from get, and restore it in put. Random numbers must "
                "come from env.np_random, which is saved for you.",
            )


CHECKS: Mapping[str, Check] = checks_by_name((continues_exactly,))


def _difference(adapter: EnvState, env_id: str, saved_after: int) -> str:
    """Return what a restored environment returns differently from the saved one that continues, or an empty string."""
    request = EnvRequest(env_id, {}, None, 1)
    with closing(make_single(request)) as env, closing(make_single(request)) as restored:
        actions = copy.deepcopy(env.action_space)
        actions.seed(0)
        info: Mapping[str, Any] = env.reset(seed=1)[1]
        over, envs = False, [env]
        for t in range(saved_after + COMPARED_STEPS):
            if t == saved_after:
                state.encode(adapter.get(env))  # says what isn't plain data
                saved = state.save(env, (adapter,))
                if saved is None:
                    raise NotApplicable(f"a wrapper of {env_id} has a state that can't be saved")
                restored.reset(seed=2)
                state.restore(restored, json.loads(json.dumps(saved)), (adapter,))
                envs.append(restored)
            action = sample_action(actions, None if over else action_mask(env, info))
            steps = [_step(one, action, reset=over) for one in envs]
            (*_, info), over = steps[0], steps[0][2] or steps[0][3]
            returned = [
                (*step[:4], action_mask(one, step[4], ended=over)) for one, step in zip(envs, steps, strict=True)
            ]
            for name, first, again in zip(PARTS, returned[0], returned[-1], strict=True):
                if np.asarray(first).tobytes() != np.asarray(again).tobytes():
                    return f"another {name} in step {t - saved_after + 1}"
    return ""


def _step(env: gym.Env[Any, Any], action: Any, *, reset: bool) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    if reset:
        obs, info = env.reset()
        return np.array(obs), 0.0, False, False, info
    obs, reward, terminated, truncated, info = env.step(action)
    return np.array(obs), float(reward), bool(terminated), bool(truncated), info


def _fitting(target: CheckTarget, adapter: EnvState) -> list[str]:
    """Return environments that fit, one of each class."""
    modules = (type(adapter).__module__, getattr(target.component.load(), "__module__", ""))
    packages = {_package(module) for module in (*modules, module_of(target.plugin.module))}
    own = [env_id for env_id, spec in gym.registry.items() if _package(_module(spec.entry_point)) in packages]
    found: dict[type, str] = {}
    for kind, env_id in _classes([*own, *CANDIDATES], adapter):
        found.setdefault(kind, env_id)
        if len(found) == MOST:
            break
    if found:
        return list(found.values())
    deadline = time.perf_counter() + SEARCH_SECONDS
    others = (env_id for env_id in reversed(list(gym.registry)) if time.perf_counter() < deadline)
    return [env_id for _, env_id in _classes(others, adapter)][:1]


def _classes(env_ids: Iterable[str], adapter: EnvState) -> Iterator[tuple[type, str]]:
    """Yield the class and the id of each environment that can be made and fits."""
    for env_id in env_ids:
        try:
            env = make_single(EnvRequest(env_id, {}, None, 1))
        except (Exception, SystemExit):  # not installed here, or it needs arguments
            continue
        with closing(env):
            if adapter.fits(env):
                yield type(env.unwrapped), env_id


def _package(module: str) -> str:
    return module.partition(".")[0]


def _module(entry_point: Any) -> str:
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")
