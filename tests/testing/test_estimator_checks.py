"""Every check of an estimator can fail: for each there is an estimator with one fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from failing_checks import ALL_CHECKS, assert_fails, failing, named_by_faulty_plugins
from pydantic import Field
from torch import Tensor

from pgzoo.config import ComponentConfig
from pgzoo.ops import returns
from pgzoo.testing.checks import CHECKS


def positional(rewards: Tensor, *, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Any) -> Tensor:
    return returns.reward_to_go(rewards=rewards, terminated=terminated, truncated=truncated, valid=valid, gamma=gamma)


def greedy_for_more(*, rewards: Tensor, valid: Tensor, wishes: Tensor) -> Tensor:
    return rewards


def to_go(**given: Any) -> Tensor:
    return returns.reward_to_go(**{k: given[k] for k in ("rewards", "terminated", "truncated", "valid", "gamma")})


Estimator = Callable[..., Any]


def like_to_go(change: Callable[[Tensor, dict[str, Any]], Any]) -> Estimator:
    def estimator(*, rewards: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Any) -> Any:
        given = {"rewards": rewards, "terminated": terminated, "truncated": truncated, "valid": valid, "gamma": gamma}
        return change(to_go(**given), given)

    return estimator


def leaking(x: Tensor, given: dict[str, Any]) -> Tensor:
    seen = given["rewards"] * given["valid"]
    return torch.where(given["valid"], given["gamma"] * seen.flip(1).cumsum(1).flip(1), 0.0)


def bootstrapping(
    *, rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: Any
) -> Tensor:
    return returns.reward_to_go(
        rewards=rewards,
        next_values=next_values,
        terminated=torch.zeros_like(terminated),
        truncated=terminated | truncated,
        valid=valid,
        gamma=gamma,
    )


def writing(x: Tensor, given: dict[str, Any]) -> Tensor:
    given["rewards"].add_(1.0)
    return x


class UnusedConfig(ComponentConfig):
    lam: Annotated[float, Field(description="of no use")] = 0.5


ESTIMATORS: list[tuple[str, Estimator, dict[str, Any], str, str]] = [
    ("by position", positional, {}, "keywords", "takes rewards as positional arguments"),
    ("unused setting", like_to_go(lambda x, g: x), {"config": UnusedConfig}, "keywords", "aren't arguments: lam"),
    ("squeezed", like_to_go(lambda x, g: x.squeeze(1)), {}, "shape", "[2, 3] for rewards of float32 [2, 1, 3]"),
    ("0 / 0", like_to_go(lambda x, g: x / (g["rewards"] != 0).any()), {}, "finite", "not finite for rewards = 0"),
    ("ones", like_to_go(lambda x, g: torch.where(g["valid"], x, 1.0)), {}, "zeros", "rows that are not valid"),
    (
        "leaking",
        like_to_go(leaking),
        {},
        "episodes-independent",
        "lets the next episode change the estimates across the end of an episode (terminated)",
    ),
    ("bootstrapping", bootstrapping, {}, "bootstrap", "bootstraps where an episode terminated"),
    (
        "by length",
        like_to_go(lambda x, g: x / x.shape[1]),
        {},
        "padding",
        "different numbers for other rows that are not valid (more of them)",
    ),
    ("by number", like_to_go(lambda x, g: x / x.shape[0]), {}, "members", "different numbers for a seed alone"),
    ("writing", like_to_go(writing), {}, "pure", "writes into its arguments: rewards"),
]


def test_a_correct_estimator_passes_all_checks() -> None:
    assert failing("estimator", like_to_go(lambda x, g: x)) == {}


@ALL_CHECKS
@pytest.mark.parametrize(
    ("target", "facts", "check", "said"), [e[1:] for e in ESTIMATORS], ids=[e[0] for e in ESTIMATORS]
)
def test_an_estimator_with_one_fault_fails_only_the_check_for_it(
    all_checks: bool, target: Estimator, facts: dict[str, Any], check: str, said: str
) -> None:
    only = None if all_checks else check
    assert_fails(failing("estimator", target, only, **facts), check, said, 'Estimator "broken"')


def test_the_error_for_an_unknown_estimator_argument_lists_the_known_ones() -> None:
    assert (
        "requires wishes, which no run passes. A run passes: actions, gamma"
        in (failing("estimator", greedy_for_more)["keywords"])
    )


def test_every_check_of_an_estimator_has_one_that_fails_it() -> None:
    assert {check for *_, check, _ in ESTIMATORS} | named_by_faulty_plugins("estimator") == set(CHECKS["estimator"])
