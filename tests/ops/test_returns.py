"""Returns: values computed by hand, literal formulas, and properties."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgzoo.ops.returns import notebook, reverse_scan, reward_to_go, total_return

T, F, X = "terminated", "truncated", "terminated and truncated"


def column(*values: float) -> Tensor:
    """One environment of one member: `[1, T, 1]`."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1)


def trajectory(rewards: list[float], ends: dict[int, str], filler: tuple[int, ...] = (), first: int = 0) -> Any:
    """Return the arguments of an estimator. `first` steps of the first episode lie before the window."""
    steps = len(rewards)
    terminated, truncated = torch.zeros(2, 1, steps, 1, dtype=torch.bool)
    valid = torch.ones(1, steps, 1, dtype=torch.bool)
    starts = torch.zeros(1, steps + 1, 1, dtype=torch.bool)
    starts[:, 0] = first == 0
    for t, kind in ends.items():
        terminated[:, t], truncated[:, t] = T in kind, F in kind
    for t in filler:
        valid[:, t], starts[:, t + 1] = False, True
    timestep, now = torch.zeros(1, steps, 1, dtype=torch.int64), first
    for t in range(steps):
        now = 0 if starts[0, t, 0] else now
        timestep[0, t, 0] = now if valid[0, t, 0] else 0
        now += 1
    given = {"rewards": column(*rewards), "terminated": terminated, "truncated": truncated, "valid": valid}
    return given | {"starts": starts, "timestep": timestep}


def to_go(given: Any, gamma: float = 0.5) -> list[float]:
    names = ("rewards", "terminated", "truncated", "valid")
    return reward_to_go(**{name: given[name] for name in names}, gamma=gamma).flatten().tolist()  # type: ignore[no-any-return]


def total(given: Any, gamma: float = 0.5) -> list[float]:
    return total_return(**{k: v for k, v in given.items() if k != "timestep"}, gamma=gamma).flatten().tolist()  # type: ignore[no-any-return]


# by hand, gamma = 1/2: every number below is exact in binary


@pytest.mark.parametrize("kind", [T, F, X])
def test_the_return_stops_at_terminations_and_truncations(kind: str) -> None:
    one = trajectory([1, 2, 4], {2: kind})
    assert to_go(one) == [1 + 1 + 1, 2 + 2, 4]
    assert total(one) == [3, 3, 3]


def test_at_the_end_of_the_window_the_return_counts_only_observed_rewards() -> None:
    assert to_go(trajectory([1, 2, 4], {})) == [3, 4, 4]


@pytest.mark.parametrize("kind", [T, F, X])
def test_rewards_do_not_leak_across_a_reset_step_into_the_previous_episode(kind: str) -> None:
    two = trajectory([1, 2, 0, 8, 16], {1: kind, 4: T}, filler=(2,))
    assert to_go(two) == [2, 2, 0, 16, 16]
    assert total(two) == [2, 2, 0, 16, 16]


@pytest.mark.parametrize("kind", [T, F, X])
def test_rewards_do_not_leak_between_episodes_without_a_reset_step(kind: str) -> None:
    two = trajectory([1, 2, 8, 16], {1: kind, 3: T})
    two["starts"][:, 2] = True
    assert to_go(two) == [2, 2, 16, 16]
    assert total(two) == [2, 2, 16, 16]


def test_rewards_in_invalid_rows_are_ignored() -> None:
    two = trajectory([1, 2, 99, 8, 16], {1: T, 4: T}, filler=(2,))
    assert to_go(two) == [2, 2, 0, 16, 16]
    tail = trajectory([1, 2, 77, 77], {1: F})
    tail["valid"][:, 2:] = False
    assert to_go(tail) == [2, 2, 0, 0]
    assert total(tail) == [2, 2, 0, 0]


def test_an_episode_begun_before_the_window_counts_from_its_first_step_in_it() -> None:
    assert total(trajectory([4, 2, 0, 1, 1], {1: T}, filler=(2,), first=7)) == [5, 5, 0, 1.5, 1.5]


def test_a_window_may_begin_with_a_reset_step() -> None:
    assert total(trajectory([0, 4, 2], {2: T}, filler=(0,), first=3)) == [0, 5, 5]


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, [1, 2, 4]), (1.0, [7, 6, 4])])
def test_discounts_of_0_and_1_give_the_reward_and_the_sum_of_rewards(gamma: float, expected: list[float]) -> None:
    assert to_go(trajectory([1, 2, 4], {2: T}), gamma) == expected


def test_each_member_may_have_its_own_discount() -> None:
    given = {name: value.repeat(2, 1, 1) for name, value in trajectory([1, 2, 4], {2: T}).items()}
    given.pop("timestep")
    gamma = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
    assert total_return(**given, gamma=gamma)[:, 0, 0].tolist() == [1, 7]


# the estimator `notebook`


def weights_of(boosted: list[float], gamma: float = 0.99) -> list[float]:
    """Return the notebook's weights if `boosted` is reward + t in reverse order."""
    given = trajectory([b - t for t, b in enumerate(reversed(boosted))], {len(boosted) - 1: T})
    return notebook(**given, gamma=gamma).flatten().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("boosted", "printed"),
    [
        ([1, 2, 3, 4, 5], [0.2082, 0.4122, 0.6122, 0.8081, 1.0000]),
        ([5, 4, 3, 2, 1], [1.0000, 0.7920, 0.5881, 0.3881, 0.1921]),
        ([1, 1, 1, 1, 1], [1.0000, 0.9900, 0.9801, 0.9703, 0.9606]),
    ],
)
def test_weights_match_the_three_examples_printed_in_the_notebook(boosted: list[float], printed: list[float]) -> None:
    assert [round(w, 4) for w in weights_of(boosted)] == printed


def literal(rewards: Tensor, gamma: float = 0.99) -> Tensor:
    """Compute the weights with the notebook's own lines of code."""
    batch_g = (rewards + torch.arange(len(rewards)).float()).flip(dims=(0,))
    discounted = torch.pow(gamma, torch.arange(len(rewards)).float()) * batch_g
    return discounted / discounted.max()


@pytest.mark.parametrize("length", [2, 9, 37, 200, 500])
def test_the_weights_of_an_episode_match_the_code_of_the_notebook(length: int) -> None:
    given = trajectory([1.0] * length, {length - 1: F if length == 500 else T})
    ours = notebook(**given, gamma=0.99).flatten()
    torch.testing.assert_close(ours, literal(torch.ones(length)), rtol=0, atol=1e-6)


def test_two_episodes_in_a_window_are_weighted_separately() -> None:
    given = trajectory([1, 1, 1, 0, 2, 7], {2: T, 5: F}, filler=(3,))
    ours = notebook(**given, gamma=0.5).flatten().tolist()
    # 3, 2/2 and 1/4, divided by 3; then 8 and 2/2, divided by 8
    assert ours == pytest.approx([1, 1 / 3, 1 / 12, 0, 1, 1 / 8], abs=1e-7)


def test_the_notebook_estimator_ends_an_open_episode_with_the_window() -> None:
    assert notebook(**trajectory([1, 1, 1], {}), gamma=0.5).flatten().tolist() == pytest.approx([1, 1 / 3, 1 / 12])


def test_an_episode_without_any_weight_gets_zeros_instead_of_nan() -> None:
    assert notebook(**trajectory([0.0], {0: T}), gamma=0.99).tolist() == [[[0.0]]]


# properties

floats = st.floats(-10, 10, width=32)


@given(st.lists(st.tuples(floats, st.floats(0, 1, width=32)), min_size=1, max_size=70))
@settings(deadline=None, max_examples=60)
def test_reverse_scan_matches_a_loop(pairs: list[tuple[float, float]]) -> None:
    x, decay = (column(*values).double() for values in zip(*pairs, strict=True))
    y, expected = 0.0, []
    for a, d in reversed(pairs):
        y = a + d * y
        expected.append(y)
    torch.testing.assert_close(reverse_scan(x, decay).flatten(), torch.tensor(expected[::-1]).double())


def test_reverse_scan_does_not_modify_its_arguments() -> None:
    x, decay = column(1, 2, 3), column(1, 1, 1)
    reverse_scan(x, decay)
    assert x.flatten().tolist() == [1, 2, 3] and decay.flatten().tolist() == [1, 1, 1]


@st.composite
def windows(draw: Any) -> Any:
    """Draw several episodes, with a reset step after each but the last."""
    rewards: list[float] = []
    ends, filler = {}, []
    for k, length in enumerate(draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))):
        if k:
            filler.append(len(rewards))
            rewards.append(0.0)
        rewards += draw(st.lists(floats, min_size=length, max_size=length))
        ends[len(rewards) - 1] = draw(st.sampled_from([T, F, X]))
    if draw(st.booleans()):
        ends.pop(len(rewards) - 1)  # the last one is still open
    return trajectory(rewards, ends, tuple(filler))


def padded(given: Any, rows: int) -> Any:
    def pad(name: str, value: Tensor) -> Tensor:
        fill = torch.zeros(1, rows, 1, dtype=value.dtype)
        return torch.cat([value, fill], dim=1)

    return {name: pad(name, value) for name, value in given.items()}


@pytest.mark.parametrize("estimator", [reward_to_go, total_return, notebook])
@given(window=windows(), rows=st.integers(1, 80))
@settings(deadline=None, max_examples=40)
def test_padding_leaves_results_bit_identical(estimator: Callable[..., Tensor], window: Any, rows: int) -> None:
    names = [name for name in window if name in inspect.signature(estimator).parameters]
    steps = window["rewards"].shape[1]
    alone = estimator(**{name: window[name] for name in names}, gamma=0.97)
    longer = padded(window, rows)
    among = estimator(**{name: longer[name] for name in names}, gamma=0.97)
    assert torch.equal(alone, among[:, :steps])
    assert not among[:, steps:].any()


@given(window=windows())
@settings(deadline=None, max_examples=40)
def test_the_total_return_is_the_reward_to_go_of_the_first_step(window: Any) -> None:
    steps = torch.tensor(to_go(window, 0.97)), torch.tensor(total(window, 0.97))
    first = window["starts"][0, :-1, 0] & window["valid"][0, :, 0]
    assert torch.equal(steps[0][first], steps[1][first])
