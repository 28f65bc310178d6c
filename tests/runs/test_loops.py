"""Algorithms with their own `loop`: mistakes end with an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel

import pgzoo
from pgzoo.errors import ConfigError, RunFailed
from pgzoo.tracking import Home

SHORT: dict[str, Any] = {"env": "CartPole-v1", "num_envs": 2, "total_steps": 50_000, "tracking_uri": "none"}
SHORT |= {"eval_episodes": 1, "backend": "native", "policy": "linear"}


def algorithm(loop: Callable[..., Any]) -> type[Any]:
    """Return an algorithm with this loop."""
    return type(loop.__name__, (), {"collect": pgzoo.Episodes(1), "estimator": "reward-to-go", "loop": loop})


def forgets_the_state(self: Any, ctx: Any) -> Iterator[None]:
    while ctx.running():
        ctx.play(ctx.state, {})
        yield


def is_no_generator(self: Any, ctx: Any) -> None:
    ctx.state, _ = ctx.play(ctx.state, {})


def never_yields(self: Any, ctx: Any) -> None:
    while ctx.running():
        ctx.state, _ = ctx.play(ctx.state, {})


def collects_and_never_yields(self: Any, ctx: Any) -> Any:
    while ctx.running():
        ctx.state, _ = ctx.collect(ctx.state)
    return iter(())


def names_no_parameter(self: Any, ctx: Any) -> Iterator[None]:
    ctx.play(ctx.state, {"weight": torch.zeros(1, 2, 4, 2)})
    yield


def forgets_the_environments(self: Any, ctx: Any) -> Iterator[None]:
    ctx.play(ctx.state, {"policy.weight.0": torch.zeros(1, 4, 2)})
    yield


def places_too_little(self: Any, ctx: Any) -> Iterator[None]:
    ctx.place(ctx.state, torch.zeros(1, 3))
    yield


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (forgets_the_state, "100 updates have counted no step. .* ctx.state = state"),
        (is_no_generator, "loop must be a generator. Write `yield`"),
        (never_yields, 'never_yields": loop must be a generator. Write `yield` at the end of each iteration'),
        (collects_and_never_yields, "loop must be a generator. Write `yield`"),
        (names_no_parameter, 'no parameter "weight"; there are: policy.weight.0, policy.bias.0'),
        (forgets_the_environments, r"policy.weight.0 must be \[S, N, ...\], here \[1, 2, .*\]; got \[1, 4, 2\]"),
        (places_too_little, r"must be \[S, P\], here \[1, 10\]; got \[1, 3\]"),
    ],
)
def test_a_mistake_in_the_loop_of_an_algorithm_fails_with_an_explanation(
    loop: Callable[..., Any], message: str, home: Home
) -> None:
    with pytest.raises(RunFailed, match=message):
        pgzoo.run(algorithm(loop), **SHORT)


def rounds(ctx: Any, limit: int) -> Iterator[None]:
    while ctx.running():
        ctx.state, _ = ctx.collect(ctx.state)
        assert ctx.state.env_steps.max() < limit
        yield


def returns_a_generator(self: Any, ctx: Any) -> Iterator[None]:
    return rounds(ctx, limit=1000)


@wraps(rounds)
def wraps_a_generator(*args: Any) -> Iterator[None]:
    return rounds(args[1], limit=1000)


class Iterates:
    def __init__(self, ctx: Any) -> None:
        self.rounds = rounds(ctx, limit=1000)

    def __iter__(self) -> Iterator[None]:
        return self

    def __next__(self) -> None:
        return next(self.rounds)


@pytest.mark.parametrize(
    "loop",
    [returns_a_generator, wraps_a_generator, staticmethod(partial(rounds, limit=1000)), staticmethod(Iterates)],
    ids=["function", "decorated", "partial", "iterator"],
)
def test_a_loop_is_any_callable_that_returns_an_iterator(loop: Any) -> None:
    made = type("Made", (), {"collect": pgzoo.Episodes(1), "estimator": "reward-to-go", "learns": False, "loop": loop})
    *_, ended = pgzoo.train(pgzoo.plan(made, **SHORT | {"total_steps": 100}))
    assert ended.statuses == ("finished",)
    assert ended.env_steps[0] >= 100


def test_a_config_that_is_not_a_subclass_of_algorithm_config_is_refused(home: Home) -> None:
    class Model(BaseModel):
        population: int = 3

    class Searches:
        collect, estimator = pgzoo.Episodes(1), "reward-to-go"
        config: ClassVar[type[BaseModel]] = Model
        loop = forgets_the_state

    with pytest.raises(ConfigError, match=r"Searches\.config must be a subclass of pgzoo.AlgorithmConfig"):
        pgzoo.run(Searches, **SHORT)
