"""REINFORCE with a learned baseline and RLOO: gradients by hand, and what each option says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.ops.distributions import Categorical
from pgzoo.training.engine import Engine
from pgzoo.types import Batch, Hyper, Inputs, Loss, Output, Params, Trajectory

MakePlan = Callable[..., Any]


class Table:
    """A policy and critic over two states: `logits [S, 2 states, 2 actions]` and `values [S, 2 states]`, looked up."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        state = inputs.obs[0]
        return Output(Categorical(params["logits"][:, state]), params["values"][:, state])


# state 0: P(1) = 3/4; state 1: both as likely
LOGITS = torch.tensor([[[0.0, np.log(3.0)], [0.0, 0.0]]])
VALUES = torch.tensor([[1.0, 2.0]])


def rows(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype).reshape(1, 1, -1)


# two episodes: states (0, 1), and 0 alone; then a row that is only padding
EPISODES = Batch(
    inputs=Inputs(rows([0, 1, 0, 0], torch.int64)),
    actions=rows([1, 0, 0, 0], torch.int64),
    timestep=rows([0, 1, 0, 0], torch.int64),
    advantages=rows([3.0, 0.0, 2.0, 98.0]),
    returns=rows([4.0, 2.0, 3.0, 99.0]),
    weights=rows([1, 1, 1, 0]),
    values=rows([1.0, 2.0, 1.0, 1.0]),
)


@pytest.fixture
def differentiate(plan: MakePlan) -> Callable[..., tuple[Loss, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return `differentiate(algorithm, **options)`: the loss, and minus its gradient for logits and values."""

    def found(algorithm: str, episodes: Batch = EPISODES, **options: Any) -> Any:
        one = plan(algorithm, **options)
        settings = dict(one.config.settings) | {"gamma": one.config.gamma}
        hyper = Hyper({k: torch.full((1, 1, 1), v) if isinstance(v, float) else v for k, v in settings.items()})
        logits, values = LOGITS.clone().requires_grad_(), VALUES.clone().requires_grad_()
        result = one.algorithm.loss(Table(), {"logits": logits, "values": values}, episodes, hyper)
        assert result.value.shape == (1,)
        slopes = torch.autograd.grad(-result.value.sum(), [logits, values], materialize_grads=True)
        return result, *(slope[0].numpy() for slope in slopes)

    return found


def scores(first: float, second: float, third: float, over: float = 3) -> Any:
    """Weights times scores, summed: action 1 in state 0, action 0 in state 1, action 0 in state 0."""
    state0 = first * np.array([-1 / 4, 1 / 4]) + third * np.array([3 / 4, -3 / 4])
    return pytest.approx(np.stack([state0, second * np.array([1 / 2, -1 / 2])]) / over, abs=1e-6)


PLAIN = {"normalize_advantages": False}


def test_the_score_is_weighted_by_what_the_baseline_did_not_foresee(differentiate: Any) -> None:
    assert differentiate("reinforce-baseline", **PLAIN)[1] == scores(3, 0, 2)


def test_the_baseline_goes_towards_the_returns_and_the_advantage_moves_it_not(differentiate: Any) -> None:
    """Errors G - V: 3 and 2 in state 0, 0 in state 1; half the squared error, times its weight."""
    for coef in (0.5, 2.0):
        _, _, values = differentiate("reinforce-baseline", value_coef=coef, **PLAIN)
        assert values == pytest.approx([coef * 5 / 3, 0.0])


def test_advantages_are_normalized_over_rows_that_count(differentiate: Any) -> None:
    advantages = np.array([3, 0, 2])
    expected = (advantages - advantages.mean()) / advantages.std()
    assert differentiate("reinforce-baseline")[1] == scores(*expected)


def test_gamma_t_weighs_each_step_of_the_policy_by_its_time(differentiate: Any) -> None:
    late = EPISODES._replace(timestep=rows([1, 0, 2, 0], torch.int64))
    _, logits, values = differentiate("reinforce-baseline", late, gamma_t=True, gamma=0.5, **PLAIN)
    assert logits == scores(3 / 2, 0, 2 / 4)
    assert values == pytest.approx([0.5 * 5 / 3, 0.0])


def test_rloo_sums_over_an_episode_and_takes_the_mean_of_episodes(differentiate: Any) -> None:
    """Returns 4 and 3: advantages 1 and -1, at each step of their episodes."""
    others = EPISODES._replace(advantages=rows([1.0, 1.0, -1.0, 98.0]))
    result, logits, _ = differentiate("rloo", others)
    assert logits == scores(1, 1, -1, over=2)
    assert result.value.item() == pytest.approx(-(np.log(3 / 4) + np.log(1 / 2) - np.log(1 / 4)) / 2)


@pytest.mark.parametrize(("algorithm", "over"), [("reinforce-baseline", 3), ("rloo", 2)])
def test_the_bonus_pushes_towards_the_uniform_policy(differentiate: Any, algorithm: str, over: int) -> None:
    bonus = differentiate(algorithm, entropy_coef=0.5)[1] - differentiate(algorithm)[1]
    # dH/dlogit_i = -p_i (log p_i + H): in state 0, met in two rows, p = 1/4, 3/4; in state 1 nothing
    p = np.array([1 / 4, 3 / 4])
    slope = -p * (np.log(p) - p @ np.log(p))
    assert bonus == pytest.approx(np.stack([0.5 * slope * 2 / over, [0, 0]]), abs=1e-6)


@pytest.mark.parametrize("algorithm", ["reinforce-baseline", "rloo"])
def test_sequences_give_what_their_rows_give(differentiate: Any, algorithm: str) -> None:
    """A policy with memory gets `[S, T, B]`: here the same rows, as two episodes side by side."""

    def fold(leaf: Tensor) -> Tensor:
        return leaf[0, 0, [0, 2, 1, 3]].reshape(1, 2, 2)

    leaves = {name: fold(leaf) for name, leaf in EPISODES._asdict().items() if isinstance(leaf, Tensor)}
    sequences = EPISODES._replace(inputs=Inputs(fold(EPISODES.inputs.obs)), **leaves)
    flat, folded = differentiate(algorithm), differentiate(algorithm, sequences)
    for one, other in zip(flat[1:], folded[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def seen(plan: MakePlan, algorithm: str, **settings: Any) -> tuple[Engine, Any, Trajectory]:
    ctx = Engine(plan(algorithm, num_envs=4, **settings))
    state, trajectory = ctx.collect(ctx.init())
    ctx.close()
    return ctx, state, trajectory


def test_the_advantage_is_the_return_less_the_value(plan: MakePlan) -> None:
    ctx, state, trajectory = seen(plan, "reinforce-baseline", env="probe/Bandit-v0")
    evaluated = ctx.evaluate_policy(state, trajectory)
    targets = ctx.estimate(state, trajectory, evaluated)
    assert targets.returns[0, 0].tolist() == trajectory.rewards[0, 0].tolist()
    torch.testing.assert_close(targets.advantages[0, 0], trajectory.rewards[0, 0] - evaluated.values[0, 0])  # type: ignore[index]


def test_an_episode_of_rloo_is_judged_against_the_others(plan: MakePlan) -> None:
    ctx, state, trajectory = seen(plan, "rloo", env="probe/Corridor-v0", gamma=1.0)
    lengths = trajectory.valid.sum(-2)[0].numpy()  # each step costs 1
    advantages = ctx.estimate(state, trajectory).advantages[0].numpy()
    for env, length in enumerate(lengths):
        others = np.delete(lengths, env).mean()
        np.testing.assert_allclose(advantages[:length, env], others - length, rtol=1e-5)
        assert not advantages[length:, env].any()


def test_rloo_needs_whole_episodes_and_no_critic(plan: MakePlan) -> None:
    one = plan("rloo")
    assert "value" not in one.needs
    assert not [name for name in Engine(one).init().params if name.startswith("critic.")]
