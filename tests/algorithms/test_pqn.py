"""PQN: its loss, its targets and its ε, checked against hand calculations."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import EpsilonGreedy
from pgzoo.ops.returns import td_lambda
from pgzoo.types import Batch, Hyper, Inputs, Output, Params

SMALL: dict[str, Any] = {"env": "probe/Corridor-v0", "num_envs": 2, "rollout_steps": 8, "minibatches": 2}


class Table:
    """A tabular Q function for two states and three actions."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        values = params["q"][torch.arange(1)[:, None, None], inputs.obs]
        return Output(EpsilonGreedy(values, torch.full_like(values[..., :1], 0.1)))


def test_only_the_value_of_the_chosen_action_moves_toward_its_return(plan: Any) -> None:
    q = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]).requires_grad_()
    states, actions = torch.tensor([[[0, 1, 0]]]), torch.tensor([[[2, 0, 1]]])
    returns, weights = torch.tensor([[[5.0, 1.0, 99.0]]]), torch.tensor([[[1.0, 1.0, 0.0]]])
    batch = Batch(Inputs(states), actions, torch.zeros_like(actions), returns, returns, weights)
    params = {"q": q, "policy.epsilon": torch.tensor([[0.1]])}
    loss = plan("pqn", **SMALL).algorithm.loss(Table(), params, batch, Hyper({}))
    assert loss.value.tolist() == [(4 + 9) / 4]  # ½ mean of (3 - 5)² and (4 - 1)²
    (gradient,) = torch.autograd.grad(loss.value.sum(), q)
    assert gradient[0].tolist() == [[0, 0, -1.0], [1.5, 0, 0]]
    assert loss.metrics["pqn/epsilon"].item() == pytest.approx(0.1)


def test_returns_bootstrap_from_the_largest_action_value(engine: Any) -> None:
    ctx = engine("pqn", seeds=2, gamma=0.9, estimator={"name": "td-lambda", "lam": 0.5}, **SMALL)
    state, seen = ctx.collect(ctx.state)
    found = ctx.estimate(state, seen, ctx.evaluate_policy(state, seen)).returns
    best = ctx.policy.apply(state.params | state.buffers, Inputs(seen.obs)).dist.values.amax(-1)
    flags = {name: getattr(seen, name) for name in ("rewards", "terminated", "truncated", "valid")}
    expected = td_lambda(**flags, next_values=best[:, 1:], gamma=0.9, lam=0.5)
    torch.testing.assert_close(found, expected)
    ctx.close()


def test_epsilon_decays_linearly_and_then_stays_constant(engine: Any) -> None:
    ctx = engine("pqn", seeds=3, epsilon_start=0.9, epsilon_end=0.1, epsilon_decay=0.5, **SMALL)
    state = ctx.state._replace(progress=np.array([0.0, 0.25, 0.8]))
    after = ctx.plan.algorithm.anneal(ctx, state)
    assert after.params["policy.epsilon"][:, 0].tolist() == pytest.approx([0.9, 0.5, 0.1])
    ctx.close()


def test_gradient_steps_do_not_change_epsilon(play: Any) -> None:
    ended = play("pqn", seeds=2, total_steps=400, eval_episodes=1, epsilon_start=0.3, epsilon_end=0.3, **SMALL)[-1]
    assert ended.state.updates[0] > 3
    assert ended.state.params["policy.epsilon"].tolist() == [[np.float32(0.3)]] * 2


def test_policies_without_action_values_are_refused(plan: Any) -> None:
    with pytest.raises(UnfitError, match=r"learns action values, but policy \"mlp\" has a categorical distribution"):
        plan("pqn", policy={"name": "mlp", "distribution": "categorical"}, **SMALL)
    assert plan("pqn", policy="gru", **SMALL).config.policy.settings.distribution == "epsilon-greedy"
    with pytest.raises(UnfitError, match='Algorithm "pqn" supports only Discrete actions, not Box'):
        plan("pqn", **(SMALL | {"env": "probe/Target-v0"}))


@pytest.mark.parametrize("algorithm", ["ppo", "trpo", "reinforce", "cem"])
def test_only_algorithms_that_learn_action_values_may_be_epsilon_greedy(plan: Any, algorithm: str) -> None:
    chosen = {"name": "mlp", "distribution": "epsilon-greedy"}
    with pytest.raises(UnfitError, match=rf'only algorithms that learn action values, and "{algorithm}" doesn\'t'):
        plan(algorithm, policy=chosen, env="CartPole-v1")
    assert plan("pqn", policy=chosen, **SMALL).config.policy.settings.distribution == "epsilon-greedy"


class Closing(gym.Env[Any, Any]):
    """Every step has reward 1. The last one is truncated, and its mask allows no action."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {"action_mask": np.ones(2, np.int8)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        mask = np.full(2, self.t < 5, np.int8)
        return np.full(1, self.t / 5, np.float32), 1.0, False, self.t == 5, {"action_mask": mask}


gym.register("probe/Closing-v0", cast(Any, Closing))


def test_the_value_after_a_truncation_does_not_depend_on_a_mask_that_allows_nothing(engine: Any) -> None:
    ctx = engine("pqn", **(SMALL | {"env": "probe/Closing-v0", "rollout_steps": 12}))
    _, trajectory = ctx.collect(ctx.state)
    ended = trajectory.truncated[0, :, 0].nonzero().flatten()
    assert len(ended) and not trajectory.action_mask[0, ended + 1].any()
    unmasked = trajectory._replace(action_mask=torch.ones_like(trajectory.action_mask))
    values, expected = (ctx.evaluate_policy(ctx.state, seen).values for seen in (trajectory, unmasked))
    assert values.equal(expected) and values.abs().max() < 10
    ctx.close()
