"""REINFORCE: its gradient and options, checked against hand calculations, and the preset of a teaching notebook."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgzoo.ops.distributions import Categorical
from pgzoo.training.engine import Engine
from pgzoo.types import Batch, Hyper, Inputs, Output, Params

MakePlan = Callable[..., Any]


class Table:
    """A tabular policy for two states: `logits [S, 2 states, 2 actions]`."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return Output(Categorical(params["logits"][:, inputs.obs[0, 0]].unsqueeze(1)))


# state 0: P(action 1) = 3/4; state 1: both actions are equally likely
LOGITS = torch.tensor([[[0.0, np.log(3.0)], [0.0, 0.0]]])


def batch(
    states: list[int], actions: list[int], returns: list[float], timestep: list[int], weights: Any = None
) -> Batch:
    def rows(values: Any, dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).reshape(1, 1, -1)

    advantages = rows(returns, torch.float32)
    weight = rows(weights, torch.float32)
    clock = rows(timestep, torch.int64)
    return Batch(Inputs(rows(states, torch.int64)), rows(actions, torch.int64), clock, advantages, advantages, weight)


# two episodes, one with states 0 and 1, one with state 0 only; the last row is padding
EPISODES = batch([0, 1, 0, 0], [1, 0, 0, 0], [4.0, 2.0, 3.0, 99.0], [0, 1, 0, 0], [1, 1, 1, 0])


@pytest.fixture
def gradient(plan: MakePlan) -> Callable[..., list[list[float]]]:
    """Return `gradient(**options)`, which returns the negated gradient of the loss on EPISODES for the logits."""

    def ascent(**options: Any) -> list[list[float]]:
        settings = {"baseline": "none", "normalize_returns": False} | options
        one = plan(**settings)
        hyper = Hyper(
            {
                name: torch.full((1, 1, 1), value) if isinstance(value, float) else value
                for name, value in (dict(one.config.settings) | {"gamma": one.config.gamma}).items()
            }
        )
        logits = LOGITS.clone().requires_grad_()
        loss = one.algorithm.loss(Table(), {"logits": logits}, EPISODES, hyper).value
        assert loss.shape == (1,)
        (found,) = torch.autograd.grad(-loss.sum(), logits)
        return found[0].tolist()  # type: ignore[no-any-return]

    return ascent


def by_hand(first: float, second: float, third: float, over: float = 3) -> Any:
    """Return the weighted sum of the scores of three rows, divided by `over`.

    The rows are action 1 in state 0, action 0 in state 1, and action 0 in state 0.
    """
    one_minus_p = np.array([-1 / 4, 1 / 4]), np.array([1 / 2, -1 / 2]), np.array([3 / 4, -3 / 4])
    state0 = first * one_minus_p[0] + third * one_minus_p[2]
    return pytest.approx([*state0 / over, *second * one_minus_p[1] / over], abs=1e-6)


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_the_plain_gradient_is_return_times_score(gradient: Any) -> None:
    assert flat(gradient()) == by_hand(4, 2, 3)


def test_the_mean_baseline_is_subtracted(gradient: Any) -> None:
    assert flat(gradient(baseline="mean")) == by_hand(1, -1, 0)


def test_returns_are_divided_by_their_standard_deviation(gradient: Any) -> None:
    deviation = np.std([4, 2, 3])
    assert flat(gradient(normalize_returns=True)) == by_hand(*np.array([4, 2, 3]) / deviation)
    assert flat(gradient(normalize_returns=True, baseline="mean")) == by_hand(*np.array([1, -1, 0]) / deviation)


def test_gamma_t_weights_each_step_by_its_timestep(gradient: Any) -> None:
    assert flat(gradient(gamma_t=True, gamma=0.5)) == by_hand(4, 2 * 0.5, 3)


def test_averaging_over_episodes_divides_by_the_number_of_episodes(gradient: Any) -> None:
    assert flat(gradient(average="episodes")) == by_hand(4, 2, 3, over=2)


def test_entropy_bonus_pushes_the_policy_toward_uniform(gradient: Any) -> None:
    bonus = np.array(flat(gradient(entropy_coef=0.5))) - np.array(flat(gradient()))
    # dH/dlogit_i = -p_i (log p_i + H): two rows of three have state 0, with p = 1/4, 3/4; in state 1 it is 0
    p = np.array([1 / 4, 3 / 4])
    slope = -p * (np.log(p) - p @ np.log(p))
    assert bonus == pytest.approx([*0.5 * slope * 2 / 3, 0, 0], abs=1e-6)


def test_reported_policy_loss_excludes_the_entropy_bonus(plan: MakePlan) -> None:
    one = plan(entropy_coef=0.5, baseline="none", normalize_returns=False)
    hyper = Hyper(dict(one.config.settings) | {"gamma": 1.0})
    result = one.algorithm.loss(Table(), {"logits": LOGITS}, EPISODES, hyper)
    surrogate = (4 * np.log(3 / 4) + 2 * np.log(1 / 2) + 3 * np.log(1 / 4)) / 3
    entropy = (2 * -(np.log(1 / 4) / 4 + 3 * np.log(3 / 4) / 4) + np.log(2)) / 3
    assert result.metrics["loss/policy"].item() == pytest.approx(-surrogate, rel=1e-5)
    assert result.metrics["policy/entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert result.value.item() == pytest.approx(-surrogate - 0.5 * entropy, rel=1e-5)


# the preset of a teaching notebook


def test_notebook_preset_makes_the_same_updates_as_the_notebook(catalog: Any) -> None:
    """The reference is the notebook's loop for five episodes: weights of steps, `-sum(weight * log p)`, Adam."""
    from pgzoo.config import Layer
    from pgzoo.runs.planning import make_plan
    from pgzoo.runs.resolve import compose

    given = {"algorithm": "reinforce", "env": "CartPole-v1", "eval_episodes": 1}
    one = make_plan(compose(Layer(given, ".".join), catalog, preset="notebook"), catalog)
    ctx = Engine(one)
    state = ctx.init()

    model = torch.nn.Sequential(
        torch.nn.Linear(4, 64), torch.nn.LeakyReLU(), torch.nn.Linear(64, 2), torch.nn.Softmax(dim=-1)
    )
    with torch.no_grad():
        for layer, linear in enumerate((model[0], model[2])):
            linear.weight.copy_(state.params[f"policy.weight.{layer}"][0].T)
            linear.bias.copy_(state.params[f"policy.bias.{layer}"][0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    for update in range(5):
        ctx.begin_update()
        state = state._replace(updates=np.array([update]))
        state, seen = ctx.collect(state)
        assert seen.valid.all()  # one environment, one episode
        state = ctx.step(one.algorithm.loss, state, ctx.batch(seen, ctx.estimate(state, seen)))

        obs, actions = seen.obs[0, :-1, 0], seen.actions[0, :, 0]
        rewards = torch.tensor([r + t for t, r in enumerate(seen.rewards[0, :, 0].tolist())]).flip(dims=(0,))
        discounted = torch.pow(0.99, torch.arange(len(rewards)).float()) * rewards
        discounted /= discounted.max()
        chosen = model(obs).gather(dim=1, index=actions.unsqueeze(1)).squeeze()
        loss = -1 * torch.sum(discounted * torch.log(chosen))
        assert ctx.metrics.means()["loss/total"][0] == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ctx.close()
    close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-6)
    for layer, linear in enumerate((model[0], model[2])):
        close(state.params[f"policy.weight.{layer}"][0].T, linear.weight.detach())
        close(state.params[f"policy.bias.{layer}"][0], linear.bias.detach())


def test_notebook_preset_has_the_settings_of_the_notebook(catalog: Any) -> None:
    from pgzoo.config import Layer
    from pgzoo.runs.resolve import compose

    config = compose(Layer({"algorithm": "reinforce", "env": "CartPole-v1"}, ".".join), catalog, preset="notebook")
    assert (config.num_envs, config.total_episodes, config.total_steps) == (1, 1000, None)
    assert (config.max_episode_steps, config.gamma, config.eval_episodes) == (500, 0.99, 1000)
    assert config.policy.nested()["activation"] == "leaky_relu" and config.policy.nested()["hidden"] == [64]
    assert (config.settings.learning_rate, config.settings.optimizer) == (1e-3, "adam")
