"""REINFORCE with a learned baseline, and RLOO: gradients and options, checked against hand calculations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.ops.distributions import Categorical
from pgzoo.training.engine import Engine
from pgzoo.types import Batch, Episodes, Hyper, Inputs, Loss, Output, Params, Trajectory

MakePlan = Callable[..., Any]


class Table:
    """A tabular policy and critic for two states: `logits [S, 2 states, 2 actions]` and `values [S, 2 states]`."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        state = inputs.obs[0]
        return Output(Categorical(params["logits"][:, state]), params["values"][:, state])


# state 0: P(action 1) = 3/4; state 1: both actions are equally likely
LOGITS = torch.tensor([[[0.0, np.log(3.0)], [0.0, 0.0]]])
VALUES = torch.tensor([[1.0, 2.0]])


def rows(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype).reshape(1, 1, -1)


# two episodes, one with states 0 and 1, one with state 0 only; the last row is padding
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
    """Return `differentiate(algorithm, **options)`, which returns the loss and its negated gradients.

    The gradients are those for the logits and for the values.
    """

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
    """Return the weighted sum of the scores of three rows, divided by `over`.

    The rows are action 1 in state 0, action 0 in state 1, and action 0 in state 0.
    """
    state0 = first * np.array([-1 / 4, 1 / 4]) + third * np.array([3 / 4, -3 / 4])
    return pytest.approx(np.stack([state0, second * np.array([1 / 2, -1 / 2])]) / over, abs=1e-6)


PLAIN = {"normalize_advantages": False}


def test_scores_are_weighted_by_the_advantages(differentiate: Any) -> None:
    assert differentiate("reinforce-baseline", **PLAIN)[1] == scores(3, 0, 2)


def test_baseline_is_fitted_to_returns_without_gradients_from_advantages(differentiate: Any) -> None:
    """The errors G - V are 3 and 2 in state 0, and 0 in state 1; the loss is `value_coef` / 2 times the mean square."""
    for coef in (0.5, 2.0):
        _, _, values = differentiate("reinforce-baseline", value_coef=coef, **PLAIN)
        assert values == pytest.approx([coef * 5 / 3, 0.0])


def test_advantage_normalization_ignores_padding(differentiate: Any) -> None:
    advantages = np.array([3, 0, 2])
    expected = (advantages - advantages.mean()) / advantages.std()
    assert differentiate("reinforce-baseline")[1] == scores(*expected)


def test_gamma_t_weights_the_policy_loss_but_not_the_value_loss_by_timestep(differentiate: Any) -> None:
    late = EPISODES._replace(timestep=rows([1, 0, 2, 0], torch.int64))
    _, logits, values = differentiate("reinforce-baseline", late, gamma_t=True, gamma=0.5, **PLAIN)
    assert logits == scores(3 / 2, 0, 2 / 4)
    assert values == pytest.approx([0.5 * 5 / 3, 0.0])


def test_rloo_sums_over_the_steps_of_an_episode_and_averages_over_episodes(differentiate: Any) -> None:
    """The returns of the episodes are 4 and 3, so the advantages are 1 and -1 at each of their steps."""
    others = EPISODES._replace(advantages=rows([1.0, 1.0, -1.0, 98.0]))
    result, logits, _ = differentiate("rloo", others)
    assert logits == scores(1, 1, -1, over=2)
    assert result.value.item() == pytest.approx(-(np.log(3 / 4) + np.log(1 / 2) - np.log(1 / 4)) / 2)


@pytest.mark.parametrize(("algorithm", "over"), [("reinforce-baseline", 3), ("rloo", 2)])
def test_entropy_bonus_pushes_the_policy_toward_uniform(differentiate: Any, algorithm: str, over: int) -> None:
    bonus = differentiate(algorithm, entropy_coef=0.5)[1] - differentiate(algorithm)[1]
    # dH/dlogit_i = -p_i (log p_i + H): two rows have state 0, with p = 1/4, 3/4; in state 1 it is 0
    p = np.array([1 / 4, 3 / 4])
    slope = -p * (np.log(p) - p @ np.log(p))
    assert bonus == pytest.approx(np.stack([0.5 * slope * 2 / over, [0, 0]]), abs=1e-6)


@pytest.mark.parametrize("algorithm", ["reinforce-baseline", "rloo"])
def test_sequences_have_the_same_gradients_as_their_flat_rows(differentiate: Any, algorithm: str) -> None:
    """Recurrent policies get batches `[S, T, B]`: here the same rows, as two episodes side by side."""

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


def test_advantage_is_the_return_minus_the_value(plan: MakePlan) -> None:
    ctx, state, trajectory = seen(plan, "reinforce-baseline", env="probe/Bandit-v0")
    evaluated = ctx.evaluate_policy(state, trajectory)
    targets = ctx.estimate(state, trajectory, evaluated)
    assert targets.returns[0, 0].tolist() == trajectory.rewards[0, 0].tolist()
    torch.testing.assert_close(targets.advantages[0, 0], trajectory.rewards[0, 0] - evaluated.values[0, 0])  # type: ignore[index]


def test_rloo_advantage_is_the_return_minus_the_mean_of_the_other_returns(plan: MakePlan) -> None:
    ctx, state, trajectory = seen(plan, "rloo", env="probe/Corridor-v0", gamma=1.0)
    lengths = trajectory.valid.sum(-2)[0].numpy()  # the reward of each step is -1
    advantages = ctx.estimate(state, trajectory).advantages[0].numpy()
    for env, length in enumerate(lengths):
        others = np.delete(lengths, env).mean()
        np.testing.assert_allclose(advantages[:length, env], others - length, rtol=1e-5)
        assert not advantages[length:, env].any()


def test_rloo_collects_whole_episodes_and_has_no_critic(plan: MakePlan) -> None:
    one = plan("rloo")
    assert isinstance(one.collection, Episodes)
    assert "value" not in one.needs
    assert not [name for name in Engine(one).init().params if name.startswith("critic.")]
