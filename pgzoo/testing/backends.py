"""What a way to run many environments keeps to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from pgzoo.envs.single import make_single
from pgzoo.protocols import EnvBackend, VectorEnv
from pgzoo.testing import probes  # noqa: F401  registers the environments
from pgzoo.testing.subject import Check, NotApplicable, Subject, called
from pgzoo.types import Array, EnvRequest

__all__ = ["CHECKS"]

CANDIDATES = ("CartPole-v1", "pgzoo/AnySpaces-v0", "Pendulum-v1", "FrozenLake-v1")
LIMIT, STEPS = 9, 25


def fits(subject: Subject) -> None:
    """It says by a text what it can't run and why, and shows the spaces of what it can."""
    with _open(subject, 2) as envs:
        plain = make_single(_request(subject, 1))
        subject.expect(
            (envs.observation_space, envs.action_space) == (plain.observation_space, plain.action_space),
            "shows other spaces than the environment has",
            "observation_space and action_space are those of one environment.",
        )
        plain.close()


def rows_apart(subject: Subject) -> None:
    """What a row does depends on its own seed and actions alone, and a seed gives the same again."""
    with _open(subject, 2) as few, _open(subject, 4) as many:
        first, again, among = (_play(envs, rows) for envs, rows in ((few, 2), (few, 2), (many, 4)))
    for name, values in first.items():
        subject.expect(
            np.array_equal(values, again[name]),
            f"gives other {name} for the same seeds",
            "reset(seeds) begins everything anew, its random streams too.",
        )
        subject.expect(
            np.array_equal(values, among[name][:, :2]),
            f"gives a row other {name} when there are more rows",
            "Give every row a random stream of its own, from its seed.",
        )


def next_step(subject: Subject) -> None:
    """The observation at an end is the final one; the step after it only resets: reward 0, no flags, a fresh start."""
    with _open(subject, 3) as envs:
        seen = _play(envs, 3)
    over = seen["terminated"] | seen["truncated"]
    subject.expect(over[:-1].any(), f"ends no episode in {STEPS} steps, with a limit of {LIMIT}", "Heed the limit.")
    after = np.zeros_like(over)
    after[1:] = over[:-1]
    subject.expect(
        not over[after].any() and not seen["rewards"][after].any(),
        "does more than reset in the step after an end",
        "In NEXT_STEP autoreset that step ignores its action, pays 0 and ends nothing.",
    )
    lengths = [np.diff(np.flatnonzero(np.r_[True, column])) for column in over.T]
    subject.expect(max(map(max, lengths)) <= LIMIT + 1, f"plays longer than {LIMIT} steps", "Heed max_episode_steps.")
    moved = (seen["obs"][1:] != seen["obs"][:-1]).reshape(*over.shape, -1).any(-1)
    subject.expect(
        moved[after].all(),
        "shows the final observation again instead of a new first one",
        "The step after an end returns what reset returned.",
    )


def select(subject: Subject) -> None:
    """Rows that go on without the others see what they would have seen among them."""
    half = np.arange(2)
    with _open(subject, 4) as whole, _open(subject, 4) as envs:
        expected = _play(whole, 4)
        begin = _play(envs, 4, steps=STEPS // 2)
        part = envs.select(half)
        if part is None:
            raise NotApplicable("its rows can't be taken apart")
        rest = _play(part, 2, first=STEPS // 2)
    for name, values in expected.items():
        seen = np.concatenate([begin[name][:, :2], rest[name]])
        subject.expect(
            np.array_equal(values[:, :2], seen),
            f"gives rows other {name} once they are selected",
            "select returns the same environments, in the middle of what they do.",
        )


def close(subject: Subject) -> None:
    """It can be closed, also before it was ever reset."""
    with subject.doing("to be closed", "Free what there is, whatever has happened before."):
        _backend(subject).open(_request(subject, 2)).close()


CHECKS: Mapping[str, Check] = called((fits, rows_apart, next_step, select, close))


def _backend(subject: Subject) -> EnvBackend:
    backend: EnvBackend = subject.component.load()()
    return backend


def _request(subject: Subject, rows: int) -> EnvRequest:
    for env in CANDIDATES:
        request = EnvRequest(env, {}, LIMIT, rows)
        if env in gym.registry and not _backend(subject).fits(request):
            return request
    raise NotApplicable(f"it runs none of {', '.join(CANDIDATES)}")


@contextmanager
def _open(subject: Subject, rows: int) -> Iterator[VectorEnv]:
    request = _request(subject, rows)
    with subject.doing(f"to run {request.id}", "See pgzoo.protocols.VectorEnv."):
        envs = _backend(subject).open(request)
        try:
            yield envs
        finally:
            envs.close()


def _play(envs: VectorEnv, rows: int, *, steps: int = STEPS, first: int = 0) -> dict[str, Array]:
    """Play the same actions in a row, however many rows there are; from a reset, or on from step `first`."""
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
