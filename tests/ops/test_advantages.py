"""Return and advantage estimators: values computed by hand, identities, literal formulas, and bit-identity."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgzoo.ops.returns import (
    gae,
    leave_one_out,
    n_step,
    notebook,
    retrace,
    reward_to_go,
    td_lambda,
    total_return,
    upgo,
    v_trace,
)

Batch = dict[str, Tensor]

GARBAGE = 3e38
"""Fills invalid rows, which may hold any finite number."""


def window(marks: str, began: bool = True, **numbers: list[float]) -> Batch:
    """Return one environment of one member. Marks: . continues, T terminated, F truncated, X both, _ invalid."""

    def column(values: list[Any]) -> Tensor:
        return torch.tensor(values).reshape(1, -1, 1)

    fresh = [began, *(before in "TFX_" and mark != "_" for before, mark in zip(marks, marks[1:] + ".", strict=True))]
    timestep = [0] * len(marks)
    for t in range(1, len(marks)):
        timestep[t] = 0 if fresh[t] or marks[t] == "_" else timestep[t - 1] + 1
    return {
        "terminated": column([mark in "TX" for mark in marks]),
        "truncated": column([mark in "FX" for mark in marks]),
        "valid": column([mark != "_" for mark in marks]),
        "starts": column(fresh),
        "timestep": column(timestep),
        **{name: column(values) for name, values in numbers.items()},
    }


def estimate(estimator: Callable[..., Any], batch: Batch, **own: Any) -> tuple[Tensor, ...]:
    """Call the estimator with the arguments that it takes; return a tuple even for a single tensor."""
    available = batch | own
    result = estimator(**{n: available[n] for n in inspect.signature(estimator).parameters if n in available})
    return result if isinstance(result, tuple) else (result,)


# by hand, gamma = 1/2: every number below is exact in binary

STEPS: dict[str, list[float]] = {
    "rewards": [1, 2, 4],
    "values": [8, 4, 2],
    "next_values": [4, 2, 16],
    "q_values": [6, 8, 2],
}
"""Three steps; the observation after the last has the value 16, which counts only if the last step is bootstrapped."""

# estimator, its settings, its results if the last step is bootstrapped, and its results if it isn't
HAND: list[tuple[Callable[..., Any], dict[str, Any], list[list[float]], list[list[float]]]] = [
    # 4 + 16/2, 2 + 12/2, 1 + 8/2 and 4, 2 + 4/2, 1 + 4/2
    (reward_to_go, {}, [[5, 8, 12]], [[3, 4, 4]]),
    # minus the value of the first step; the critic learns the rewards to go
    (total_return, {}, [[5 - 8] * 3, [5, 8, 12]], [[3 - 8] * 3, [3, 4, 4]]),
    (n_step, {"n": 1}, [[1 + 2, 2 + 1, 4 + 8]], [[1 + 2, 2 + 1, 4]]),
    (n_step, {"n": 2}, [[1 + 3 / 2, 2 + 12 / 2, 12]], [[1 + 3 / 2, 2 + 4 / 2, 4]]),
    (n_step, {"n": 3}, [[5, 8, 12]], [[3, 4, 4]]),
    # TD errors -5, -1, 10 or 2; gamma lam = 1/4
    (gae, {"lam": 0.5}, [[-4.625, 1.5, 10], [3.375, 5.5, 12]], [[-5.125, -0.5, 2], [2.875, 3.5, 4]]),
    (td_lambda, {"lam": 0.5}, [[3.375, 5.5, 12]], [[2.875, 3.5, 4]]),
    # the same errors times rho = 1/2, and c = 1/4; A = (r + v/2 - V) / 2
    (
        v_trace,
        {"lam": 1.0, "rho_bar": 0.5, "c_bar": 0.25, "log_rhos": [0.0, 0.0, 0.0]},
        [[-2.46875, 0.75, 5], [5.515625, 4.125, 7]],
        [[-2.59375, -0.25, 1], [5.453125, 3.625, 3]],
    ),
    # the policy never takes the second action: its ratio is 0, so the first step is bootstrapped from its value
    (
        v_trace,
        {"lam": 1.0, "rho_bar": 1.0, "c_bar": 1.0, "log_rhos": [0.0, -200.0, 7.0]},
        [[1 + 4 / 2 - 8, 0, 10], [3, 4, 12]],
        [[1 + 4 / 2 - 8, 0, 2], [3, 4, 4]],
    ),
    # errors -3, -5, 10 or 2; c = 0, 1/2, 1/2; a step's own c doesn't enter its return
    (retrace, {"lam": 0.5, "log_rhos": [-200.0, 5.0, 0.0]}, [[2.375, 5.5, 12]], [[1.875, 3.5, 4]]),
    (retrace, {"lam": 0.5, "log_rhos": [0.0, 5.0, -200.0]}, [[1.75, 3, 12]], [[1.75, 3, 4]]),
    # only the last step is better than the critic expected, so the first is bootstrapped after its own reward
    (upgo, {"lam": 0.5}, [[3 - 8, 8 - 4, 12 - 2], [3.375, 5.5, 12]], [[3 - 8, 4 - 4, 4 - 2], [2.875, 3.5, 4]]),
]

WINDOWS = ["..T", "..F", "..X", "...", "...__", "..T__", "_..F", "_...", "..T_...", "..F_..T", "..X_..F", "..F_...__"]
WINDOWS += ["..T...", "..F..T", "..X..."]  # no invalid step between the episodes


@pytest.mark.parametrize("began", [True, False], ids=["", "begun before"])
@pytest.mark.parametrize("marks", WINDOWS)
@pytest.mark.parametrize(("estimator", "own", "bootstrapped", "ended"), HAND)
def test_estimators_match_values_computed_by_hand(
    estimator: Any,
    own: dict[str, Any],
    bootstrapped: list[list[float]],
    ended: list[list[float]],
    marks: str,
    began: bool,
) -> None:
    own, steps = dict(own), dict(STEPS)
    if "log_rhos" in own:
        steps["log_rhos"] = own.pop("log_rhos")
    numbers: dict[str, list[float]] = {name: [] for name in steps}
    expected: list[list[float]] = [[] for _ in ended]
    t = 0
    while t < len(marks):
        filler = marks[t] == "_"
        for name, row in numbers.items():
            row += [GARBAGE] if filler else steps[name]
        for row, values in zip(expected, bootstrapped if marks[t + 2 : t + 3] in ("F", ".") else ended, strict=True):
            row += [0.0] if filler else values
        t += 1 if filler else 3
    found = estimate(estimator, window(marks, began, **numbers), gamma=0.5, **own)
    assert [tensor.flatten().tolist() for tensor in found] == expected


def flatten_steps(*columns: Batch, dim: int = -1) -> Batch:
    return {name: torch.cat([column[name] for column in columns], dim) for name in columns[0]}


def test_leave_one_out_compares_the_episodes_of_all_environments() -> None:
    # returns 3, 6 and 12: the others' means are 9, 7.5 and 4.5
    left = window("..T_.T", rewards=[1, 2, 4, GARBAGE, 4, 4])
    right = window("..F___", rewards=[6, 0, 24, GARBAGE, GARBAGE, GARBAGE])
    advantages, targets = estimate(leave_one_out, flatten_steps(left, right), gamma=0.5)
    assert targets[0].T.tolist() == [[3, 4, 4, 0, 6, 4], [12, 12, 24, 0, 0, 0]]  # the returns that remain
    assert advantages[0].T.tolist() == [[-6, -6, -6, 0, -1.5, -1.5], [7.5, 7.5, 7.5, 0, 0, 0]]


def test_the_advantage_of_a_single_episode_is_its_return() -> None:
    advantages, targets = estimate(leave_one_out, window("..T_", rewards=[1, 2, 4, GARBAGE]), gamma=0.5)
    assert advantages.flatten().tolist() == [3, 3, 3, 0]
    assert targets.flatten().tolist() == [3, 4, 4, 0]


def test_leave_one_out_compares_only_episodes_of_the_same_member() -> None:
    one = flatten_steps(window("T", rewards=[1.0]), window("T", rewards=[2.0]))
    other = flatten_steps(window("T", rewards=[10.0]), window("T", rewards=[30.0]))
    advantages, _ = estimate(leave_one_out, flatten_steps(one, other, dim=0), gamma=0.5)
    assert advantages[:, 0].tolist() == [[-1, 1], [-20, 20]]


@given(st.floats(1e-3, 1e9) | st.floats(-1e9, -1e-3), st.integers(2, 64), st.floats(0, 1))
@settings(deadline=None)
def test_episodes_with_equal_returns_have_zero_advantage(reward: float, episodes: int, gamma: float) -> None:
    columns = [window("..T", rewards=[reward, 0.5 * reward, reward])] * episodes
    advantages, _ = estimate(leave_one_out, flatten_steps(*columns), gamma=gamma)
    assert not advantages.any()


def test_leave_one_out_declares_that_it_needs_whole_episodes() -> None:
    assert vars(leave_one_out) == {"whole_episodes": True}


# properties


@st.composite
def batches(draw: Any, dtype: torch.dtype = torch.float64) -> Batch:
    """Draw random batches: episodes with or without an invalid step between them, the last perhaps unfinished."""
    members, num_envs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    episode = st.builds(lambda steps, end: "." * steps + end, st.integers(0, 8), st.sampled_from(["T", "F", "X"]))
    column = st.builds(
        lambda before, episodes, between, tail: before + between.join(episodes) + tail,
        st.sampled_from(["", "_"]),
        st.lists(episode, min_size=1, max_size=4),
        st.sampled_from(["", "_"]),
        st.sampled_from(["", "_", "_.....", "_..........."]),
    )
    marks = [draw(column) for _ in range(members * num_envs)]
    longest = max(map(len, marks))
    columns = [window(m.ljust(longest, "_"), draw(st.booleans())) for m in marks]
    rows = [flatten_steps(*columns[s * num_envs : (s + 1) * num_envs]) for s in range(members)]
    batch = flatten_steps(*rows, dim=0)
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    names = ("rewards", "values", "next_values", "q_values", "log_rhos")
    shape = batch["valid"].shape
    batch |= {name: torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for name in names}
    on = batch["valid"] & ~(batch["terminated"] | batch["truncated"])
    on[:, :-1] &= batch["valid"][:, 1:]
    following = torch.cat([batch["values"][:, 1:], batch["values"][:, :1]], 1)
    batch["next_values"] = torch.where(on, following, batch["next_values"])
    for name in ("gamma", "lam"):
        batch[name] = torch.tensor([draw(st.floats(0, 1)) for _ in range(members)], dtype=dtype).reshape(-1, 1, 1)
    return batch


def bootstrapped_to_go(batch: Batch) -> Tensor:
    return estimate(reward_to_go, batch)[0]


def td_target(batch: Batch) -> Tensor:
    bootstrap = torch.where(batch["terminated"], 0.0, batch["next_values"])
    return torch.where(batch["valid"], batch["rewards"] + batch["gamma"] * bootstrap, 0.0)


def masked_values(batch: Batch) -> Tensor:
    return torch.where(batch["valid"], batch["values"], 0.0)


property_of_batches = settings(deadline=None, max_examples=40)


@given(batch=batches())
@property_of_batches
def test_gae_with_lam_1_is_the_return_minus_the_value(batch: Batch) -> None:
    advantages, returns = estimate(gae, batch, lam=1.0)
    torch.testing.assert_close(advantages, bootstrapped_to_go(batch) - masked_values(batch))
    torch.testing.assert_close(returns, bootstrapped_to_go(batch))


@given(batch=batches())
@property_of_batches
def test_gae_with_lam_0_is_the_td_error(batch: Batch) -> None:
    advantages, returns = estimate(gae, batch, lam=0.0)
    torch.testing.assert_close(advantages, td_target(batch) - masked_values(batch), rtol=0, atol=0)
    torch.testing.assert_close(returns, td_target(batch))


@given(batch=batches())
@property_of_batches
def test_the_lambda_return_is_gae_plus_the_value(batch: Batch) -> None:
    advantages, returns = estimate(gae, batch)
    torch.testing.assert_close(estimate(td_lambda, batch)[0], advantages + masked_values(batch))
    torch.testing.assert_close(estimate(td_lambda, batch)[0], returns)


@given(batch=batches())
@property_of_batches
def test_n_step_is_the_td_target_for_one_step_and_the_return_for_many(batch: Batch) -> None:
    assert torch.equal(estimate(n_step, batch, n=1)[0], td_target(batch))
    steps = batch["rewards"].shape[-2]
    whole = estimate(n_step, batch, n=steps)[0]
    torch.testing.assert_close(whole, bootstrapped_to_go(batch))
    assert torch.equal(whole, estimate(n_step, batch, n=10**9)[0])


@given(batch=batches())
@property_of_batches
def test_v_trace_on_policy_is_the_lambda_return(batch: Batch) -> None:
    batch["log_rhos"] = torch.zeros_like(batch["log_rhos"])
    unclipped = {"rho_bar": math.inf, "c_bar": math.inf}
    torch.testing.assert_close(estimate(v_trace, batch, **unclipped)[1], estimate(td_lambda, batch)[0])
    advantages, returns = estimate(v_trace, batch, **unclipped, lam=1.0)
    torch.testing.assert_close(returns, bootstrapped_to_go(batch))
    torch.testing.assert_close(advantages, estimate(gae, batch, lam=1.0)[0])


@given(batch=batches())
@property_of_batches
def test_retrace_on_policy_with_q_equal_to_v_is_the_lambda_return(batch: Batch) -> None:
    batch |= {"log_rhos": torch.zeros_like(batch["log_rhos"]), "q_values": batch["values"]}
    torch.testing.assert_close(estimate(retrace, batch)[0], estimate(td_lambda, batch)[0])


@given(batch=batches())
@property_of_batches
def test_the_return_without_a_critic_equals_that_with_zero_next_values(batch: Batch) -> None:
    nothing = batch | {"next_values": torch.zeros_like(batch["next_values"])}
    seen = {name: value for name, value in batch.items() if name != "next_values"}
    for estimator in (reward_to_go, total_return):
        assert torch.equal(estimate(estimator, nothing)[0], estimate(estimator, seen)[0])


# literal formulas, step by step

Floats = list[float]


def stretches(batch: Batch) -> Iterator[tuple[int, slice, int]]:
    """Yield the member, the steps and the environment of each episode, as far as it lies in the window."""
    valid, ends = batch["valid"], batch["terminated"] | batch["truncated"]
    members, steps, num_envs = valid.shape
    for s in range(members):
        for n in range(num_envs):
            first = 0
            for t in range(steps):
                if not valid[s, t, n]:
                    first = t + 1
                elif ends[s, t, n] or t + 1 == steps or not valid[s, t + 1, n]:
                    yield s, slice(first, t + 1), n
                    first = t + 1


def literally(formula: Callable[..., tuple[Floats, ...]], batch: Batch) -> list[Tensor]:
    """Apply `formula(gamma, lam, r, V, V', Q, pi/mu)` to each episode separately; V' is 0 after a termination."""
    parts: list[Tensor] = []
    for s, rows, n in stretches(batch):
        names = ("rewards", "values", "next_values", "q_values", "log_rhos")
        r, v, ahead, q, log_rhos = (batch[name][s, rows, n].tolist() for name in names)
        if batch["terminated"][s, rows, n][-1]:
            ahead[-1] = 0.0
        gamma, lam = float(batch["gamma"][s]), float(batch["lam"][s])
        found = formula(gamma, lam, r, v, ahead, q, [math.exp(log_rho) for log_rho in log_rhos])
        parts = parts or [torch.zeros_like(batch["rewards"]) for _ in found]
        for part, values in zip(parts, found, strict=True):
            part[s, rows, n] = torch.tensor(values, dtype=part.dtype)
    return parts


def gae_formula(gamma: float, lam: float, r: Floats, v: Floats, ahead: Floats, *_: Floats) -> tuple[Floats, ...]:
    steps = range(len(r))
    delta = [r[t] + gamma * ahead[t] - v[t] for t in steps]
    advantages = [sum((gamma * lam) ** (k - t) * delta[k] for k in steps[t:]) for t in steps]
    return advantages, [advantages[t] + v[t] for t in steps]


def three_step_formula(gamma: float, _: float, r: Floats, v: Floats, ahead: Floats, *__: Floats) -> tuple[Floats, ...]:
    steps = range(len(r))
    last = [min(t + 2, steps[-1]) for t in steps]
    rewards = [sum(gamma ** (k - t) * r[k] for k in range(t, last[t] + 1)) for t in steps]
    return ([rewards[t] + gamma ** (last[t] + 1 - t) * ahead[last[t]] for t in steps],)


RHO_BAR, C_BAR = 1.25, 0.75


def v_trace_formula(
    gamma: float, lam: float, r: Floats, v: Floats, ahead: Floats, _: Floats, ratio: Floats
) -> tuple[Floats, ...]:
    steps = range(len(r))
    rho, c = [min(RHO_BAR, x) for x in ratio], [lam * min(C_BAR, x) for x in ratio]
    delta = [rho[t] * (r[t] + gamma * ahead[t] - v[t]) for t in steps]
    target = [v[s] + sum(gamma ** (t - s) * math.prod(c[s:t]) * delta[t] for t in steps[s:]) for s in steps]
    following = [*target[1:], ahead[-1]]
    return [rho[t] * (r[t] + gamma * following[t] - v[t]) for t in steps], target


def retrace_formula(
    gamma: float, lam: float, r: Floats, _: Floats, ahead: Floats, q: Floats, ratio: Floats
) -> tuple[Floats, ...]:
    steps = range(len(r))
    c = [lam * min(1.0, x) for x in ratio]
    delta = [r[t] + gamma * ahead[t] - q[t] for t in steps]
    return ([q[s] + sum(gamma ** (t - s) * math.prod(c[s + 1 : t + 1]) * delta[t] for t in steps[s:]) for s in steps],)


def upgo_formula(gamma: float, lam: float, r: Floats, v: Floats, ahead: Floats, *_: Floats) -> tuple[Floats, ...]:
    upgoing, target = 0.0, 0.0
    advantages, targets = [], []
    for t in reversed(range(len(r))):
        last = t + 1 == len(r)
        better = not last and r[t + 1] + gamma * ahead[t + 1] >= v[t + 1]
        upgoing = r[t] + gamma * (upgoing if better else ahead[t])
        target = r[t] + gamma * (ahead[t] if last else (1 - lam) * ahead[t] + lam * target)
        advantages.append(upgoing - v[t])
        targets.append(target)
    return advantages[::-1], targets[::-1]


@pytest.mark.parametrize(
    ("estimator", "own", "formula"),
    [
        (gae, {}, gae_formula),
        (n_step, {"n": 3}, three_step_formula),
        (v_trace, {"rho_bar": RHO_BAR, "c_bar": C_BAR}, v_trace_formula),
        (retrace, {}, retrace_formula),
        (upgo, {}, upgo_formula),
    ],
)
@given(batch=batches())
@property_of_batches
def test_an_estimator_matches_its_literal_formula(
    estimator: Any, own: dict[str, Any], formula: Any, batch: Batch
) -> None:
    for ours, theirs in zip(estimate(estimator, batch, **own), literally(formula, batch), strict=True):
        torch.testing.assert_close(ours, theirs)


@given(batch=batches())
@property_of_batches
def test_leave_one_out_matches_its_formula_and_sums_to_zero_over_episodes(batch: Batch) -> None:
    advantages, targets = estimate(leave_one_out, batch)
    for s in range(len(advantages)):
        episodes = [where for where in stretches(batch) if where[0] == s]
        gamma = float(batch["gamma"][s])
        total = [sum(gamma**t * r for t, r in enumerate(batch["rewards"][where].tolist())) for where in episodes]
        others = [total[:k] + total[k + 1 :] for k in range(len(total))]
        expected = [total[k] - sum(rest) / max(1, len(rest)) for k, rest in enumerate(others)]
        for k, where in enumerate(episodes):
            assert advantages[where].tolist() == pytest.approx([expected[k]] * len(advantages[where]), abs=1e-9)
            assert float(targets[where][0]) == pytest.approx(total[k], abs=1e-9)
        if len(episodes) > 1:
            assert sum(float(advantages[where][0]) for where in episodes) == pytest.approx(0, abs=1e-9)
    assert targets.tolist() == estimate(reward_to_go, batch | {"next_values": None})[0].tolist()
    assert not advantages[~batch["valid"]].any() and not targets[~batch["valid"]].any()


# bit-identical results, in the precision of training

EVERY: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((estimator, {}) for estimator in (reward_to_go, total_return, notebook, leave_one_out)),
    *((n_step, {"n": n}) for n in (1, 4, 10**6)),
    *((estimator, {}) for estimator in (td_lambda, gae, retrace, upgo)),
    (v_trace, {"rho_bar": 1.5, "c_bar": 1.0}),
    (v_trace, {"rho_bar": math.inf, "c_bar": math.inf}),
]
to_the_bit = pytest.mark.parametrize(("estimator", "own"), EVERY)


def same_bits(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@to_the_bit
@given(batch=batches(dtype=torch.float32), rows=st.integers(1, 80))
@settings(deadline=None, max_examples=25)
def test_padding_leaves_results_bit_identical(estimator: Any, own: dict[str, Any], batch: Batch, rows: int) -> None:
    def pad(value: Tensor) -> Tensor:
        fill = torch.full((value.shape[0], rows, value.shape[2]), 0 if value.dtype == torch.bool else 7).to(value.dtype)
        return torch.cat([value, fill], dim=1)

    steps = batch["rewards"].shape[1]
    longer = {name: value if name in ("gamma", "lam") else pad(value) for name, value in batch.items()}
    found = estimate(estimator, longer, **own)
    assert same_bits(estimate(estimator, batch, **own), tuple(tensor[:, :steps] for tensor in found))
    assert not any(tensor[:, steps:].any() for tensor in found)


@to_the_bit
@given(batch=batches(dtype=torch.float32))
@settings(deadline=None, max_examples=25)
def test_a_member_gets_bit_identical_results_alone_and_among_others(
    estimator: Any, own: dict[str, Any], batch: Batch
) -> None:
    # collected data is stored time-major
    by_time = {name: value.transpose(0, 1).contiguous().transpose(0, 1) for name, value in batch.items()}
    together = estimate(estimator, by_time, **own)
    for s in range(len(batch["rewards"])):
        alone = {name: value[s : s + 1].clone() for name, value in batch.items()}
        assert same_bits(estimate(estimator, alone, **own), tuple(tensor[s : s + 1] for tensor in together))


@to_the_bit
@given(batch=batches(dtype=torch.float32))
@settings(deadline=None, max_examples=25)
def test_contents_of_invalid_rows_do_not_affect_results(estimator: Any, own: dict[str, Any], batch: Batch) -> None:
    names = ("rewards", "values", "next_values", "q_values", "log_rhos")
    other = batch | {name: torch.where(batch["valid"], batch[name], GARBAGE) for name in names}
    found = estimate(estimator, other, **own)
    assert same_bits(estimate(estimator, batch, **own), found)
    assert not any(tensor[~batch["valid"]].any() for tensor in found)
