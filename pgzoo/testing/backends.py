"""The checks of environment backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from pgzoo.envs.choice import make_backend
from pgzoo.envs.single import make_single
from pgzoo.protocols import EnvBackend, VectorEnv
from pgzoo.testing import probes  # noqa: F401  registers the environments
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name
from pgzoo.types import Array, EnvRequest

__all__ = ["CHECKS"]

CANDIDATES = ("CartPole-v1", "pgzoo/AnySpaces-v0", "Pendulum-v1", "FrozenLake-v1")
LIMIT, STEPS = 9, 25


def fits(target: CheckTarget) -> None:
    """Its environments have the observation and action space of gymnasium's environment of the same id."""
    with _open(target, 2) as envs:
        plain = make_single(_request(target, 1))
        target.expect(
            (envs.observation_space, envs.action_space) == (plain.observation_space, plain.action_space),
            "has spaces that differ from those of the environment",
            "Set observation_space and action_space to those of one environment.",
        )
        plain.close()


def rows_independent(target: CheckTarget) -> None:
    """A row depends only on its seed and actions, and the same seed and actions produce the same episode."""
    with _open(target, 2) as few, _open(target, 4) as many:
        first, again, among = (_play(envs, rows) for envs, rows in ((few, 2), (few, 2), (many, 4)))
    for name, values in first.items():
        target.expect(
            np.array_equal(values, again[name]),
            f"returns different {name} for the same seeds",
            "Let reset(seeds) restart everything, including random generators.",
        )
        target.expect(
            np.array_equal(values, among[name][:, :2]),
            f"returns different {name} for a row when there are more rows",
            "Use a separate random generator for every row, seeded with the row's seed.",
        )


def next_step(target: CheckTarget) -> None:
    """NEXT_STEP autoreset: an end returns the final observation; the step after it only resets (reward 0, no flags)."""
    with _open(target, 3) as envs:
        seen = _play(envs, 3)
    over = seen["terminated"] | seen["truncated"]
    target.expect(
        over[:-1].any(),
        f"ends no episode in {STEPS} steps, with a limit of {LIMIT}",
        "Truncate episodes at max_episode_steps.",
    )
    after = np.zeros_like(over)
    after[1:] = over[:-1]
    target.expect(
        not over[after].any() and not seen["rewards"][after].any(),
        "does more than reset in the step after an end",
        "In NEXT_STEP autoreset that step ignores its action, and returns reward 0 and no end flags.",
    )
    lengths = [np.diff(np.flatnonzero(np.r_[True, column])) for column in over.T]
    target.expect(
        max(map(max, lengths)) <= LIMIT + 1,
        f"plays episodes of more than {LIMIT} steps",
        "Truncate episodes at max_episode_steps.",
    )
    moved = (seen["obs"][1:] != seen["obs"][:-1]).reshape(*over.shape, -1).any(-1)
    target.expect(
        moved[after].all(),
        "returns the final observation again in the step after an end",
        "That step returns the first observation of the new episode.",
    )


def select(target: CheckTarget) -> None:
    """Rows that continue alone after `select` return the same results as among all rows."""
    half = np.arange(2)
    with _open(target, 4) as whole, _open(target, 4) as envs:
        expected = _play(whole, 4)
        begin = _play(envs, 4, steps=STEPS // 2)
        part = envs.select(half)
        if part is None:
            raise NotApplicable("its `select` returns None")
        rest = _play(part, 2, first=STEPS // 2)
    for name, values in expected.items():
        seen = np.concatenate([begin[name][:, :2], rest[name]])
        target.expect(
            np.array_equal(values[:, :2], seen),
            f"returns different {name} for rows once they are selected",
            "select must return the same environments in their current state.",
        )


def close(target: CheckTarget) -> None:
    """It can be closed, even before the first reset."""
    with target.errors_fail_check("to be closed", "Let close work at any time."):
        _backend(target).open(_request(target, 2)).close()


CHECKS: Mapping[str, Check] = checks_by_name((fits, rows_independent, next_step, select, close))


def _backend(target: CheckTarget) -> EnvBackend:
    return make_backend(target.component, target.catalog)


def _request(target: CheckTarget, rows: int) -> EnvRequest:
    for env in CANDIDATES:
        request = EnvRequest(env, {}, LIMIT, rows)
        if env in gym.registry and not _backend(target).fits(request):
            return request
    raise NotApplicable(f"it runs none of {', '.join(CANDIDATES)}")


@contextmanager
def _open(target: CheckTarget, rows: int) -> Iterator[VectorEnv]:
    request = _request(target, rows)
    with target.errors_fail_check(f"to run {request.id}", "See pgzoo.protocols.VectorEnv."):
        envs = _backend(target).open(request)
        try:
            yield envs
        finally:
            envs.close()


def _play(envs: VectorEnv, rows: int, *, steps: int = STEPS, first: int = 0) -> dict[str, Array]:
    """Play fixed actions per row, after a reset or continuing at step `first`."""
    seen: dict[str, list[Any]] = {"obs": []} if first else {"obs": [envs.reset(np.arange(rows) + 10)]}
    drawn = []
    for row in range(rows):
        envs.action_space.seed(row)
        drawn.append([envs.action_space.sample() for _ in range(STEPS)])
    for t in range(first, STEPS if first else steps):
        step = envs.step(np.array([one[t] for one in drawn]), np.ones(rows, np.bool_))
        for name, value in step._asdict().items():
            seen.setdefault(name, []).append(np.array(value))
    return {name: np.stack(values) for name, values in seen.items()}
