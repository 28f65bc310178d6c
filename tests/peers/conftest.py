"""The same parameters and the same data for pgzoo and for another library, in double precision.

`make test-peers` runs this folder with the libraries installed. Without a library, its tests are not collected.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from pgzoo.training.engine import Engine
from pgzoo.types import Batch, Inputs, Loss, Params, TrainState, Trajectory

NEEDED = {
    "test_sb3.py": ("stable_baselines3",),
    "test_sb3_contrib.py": ("stable_baselines3", "sb3_contrib"),
    "test_torchrl.py": ("torchrl",),
    "test_skrl.py": ("skrl",),
}
collect_ignore = [file for file, modules in NEEDED.items() if not all(map(find_spec, modules))]

ROWS, SIZE = 32, 3
"""Number of rows of a batch, and size of an observation."""


class Shapes(gym.Env[Any, Any]):
    """An environment that is never stepped: only its spaces are used."""

    observation_space = Box(-np.inf, np.inf, (SIZE,))

    def __init__(self, action: str) -> None:
        self.action_space = Discrete(3) if action == "discrete" else Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(SIZE, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(SIZE, np.float32), 0.0, False, False, {}


gym.register("peers/Shapes-v0", cast(Any, Shapes))


class Rows(NamedTuple):
    """A batch of ROWS rows; every number is exact in float32, in which some libraries store their batches."""

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor


class Steps(NamedTuple):
    """The steps of one environment, without the steps that only reset.

    `next_obs` are the observations that the steps returned: at the end of an episode, the final one.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    next_obs: Tensor


class Oracle:
    """An algorithm of pgzoo with given parameters: its loss, its gradient and its whole update."""

    def __init__(self, ctx: Engine, action: str, seed: int = 0) -> None:
        self.ctx, self.action = ctx, action
        self.generator = torch.Generator().manual_seed(seed)
        encoder: Any = getattr(ctx.plan.policy, "encoder")  # noqa: B009
        encoder.encode = lambda obs: obs.double()  # pgzoo's networks are float32, which would hide small differences
        params = {name: 0.5 * self.normal(*leaf.shape).double() for name, leaf in ctx.state.params.items()}
        self.state: TrainState = ctx.state._replace(
            params=params, optimizer={name: leaf.double() for name, leaf in ctx.state.optimizer.items()}
        )

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, float32."""
        return torch.randn(*shape, generator=self.generator)

    def sampled_actions(self, count: int) -> Tensor:
        """Return `count` actions."""
        if self.action == "discrete":
            return torch.randint(3, (count,), generator=self.generator)
        return self.normal(count, 2)

    def log_probs(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probabilities of actions under the parameters, `[rows]`."""
        output = self.ctx.policy.apply(self.state.params, Inputs(obs[None, None]))
        return output.dist.log_prob(actions[None, None])[0, 0].detach()

    def values(self, obs: Tensor) -> Tensor:
        """Return the critic's values, `[rows]`."""
        return self.ctx.policy.apply(self.state.params, Inputs(obs[None, None])).value[0, 0].detach()  # type: ignore[no-any-return]

    def rows(self) -> Rows:
        """Return a batch, with ratios of new to old probabilities on both sides of 1 and of the clip range."""
        obs, actions = self.normal(ROWS, SIZE), self.sampled_actions(ROWS)
        old = (self.log_probs(obs, actions) + 0.3 * self.normal(ROWS)).float()
        values = (self.values(obs) + 0.3 * self.normal(ROWS)).float()
        return Rows(obs, actions, old, 2 * self.normal(ROWS) + 0.5, values + self.normal(ROWS), values)

    def gradient(self, rows: Rows) -> tuple[Loss, Params]:
        """Return pgzoo's loss on a batch, and its gradient by the name of the parameter, without the member axis."""
        result, vector = self.ctx.gradient(self.ctx.plan.algorithm.loss, self.state, self.batch(rows))
        return result, self.named(vector)

    def batch(self, rows: Rows) -> Batch:
        """Return the rows as a batch of one member."""
        one = {name: value.double()[None, None] for name, value in rows._asdict().items()}
        actions, obs = rows.actions[None, None], one.pop("obs")
        old = None
        if "old" in self.ctx.plan.needs:
            old = self.ctx.policy.apply(self.state.params, Inputs(obs)).dist.map(Tensor.detach)
        ones = torch.ones_like(one["values"])
        return Batch(Inputs(obs), timestep=0 * ones, weights=ones, old=old, **one | {"actions": actions})

    def named(self, vector: Tensor) -> Params:
        """Split a vector `[1, P]` into parameters without the member axis."""
        sizes = [leaf.numel() for leaf in self.state.params.values()]
        pieces = torch.split(vector[0], sizes)
        return {n: p.view(v.shape[1:]) for (n, v), p in zip(self.state.params.items(), pieces, strict=True)}

    def steps(self) -> Steps:
        """Return 14 steps: an episode that terminates, one that is truncated, and one that the window cuts off."""
        count = 14
        terminated, truncated = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
        terminated[4], truncated[8] = True, True
        obs, after = self.normal(count, SIZE), self.normal(count, SIZE)
        continues = ~(terminated | truncated)[:-1]
        after[:-1][continues] = obs[1:][continues]
        return Steps(obs, self.sampled_actions(count), self.normal(count), terminated, truncated, after)

    def trajectory(self, steps: Steps) -> Trajectory:
        """Return the steps as pgzoo collects them: after an end there is a step that only resets."""
        ended = (steps.terminated | steps.truncated).long()
        places = torch.arange(len(ended)) + ended.cumsum(0) - ended  # the index of each valid step in the window
        length = int(places[-1]) + 1

        def spread(value: Tensor, size: int = length) -> Tensor:
            found = value.new_zeros(size, *value.shape[1:])
            found[places] = value
            return found[None, :, None]

        obs = spread(steps.obs, length + 1)
        obs[0, places + 1, 0] = steps.next_obs
        valid = spread(torch.ones(len(places), dtype=torch.bool))
        starts = torch.zeros(1, length + 1, 1, dtype=torch.bool)
        starts[0, 0] = True
        starts[:, 1:-1] = ~valid[:, :-1]
        time = torch.zeros(1, length, 1, dtype=torch.int64)
        fields = [spread(value) for value in (steps.actions, steps.rewards, steps.terminated, steps.truncated)]
        return Trajectory(obs.double(), fields[0], fields[1].double(), fields[2], fields[3], valid, starts, time)

    def update(self, steps: Steps) -> Params:
        """Return the parameters after pgzoo's whole update on these steps, without the member axis."""
        self.ctx.begin_update()
        trajectory = self.trajectory(steps)
        algorithm: Any = self.ctx.plan.algorithm
        if hasattr(algorithm, "update"):
            after = algorithm.update(self.ctx, self.state, trajectory)
        else:
            from pgzoo.training.engine import default_update

            after = default_update(self.ctx, self.state, trajectory)
        assert not self.ctx.failures
        return {name: value[0] for name, value in after.params.items()}


@pytest.fixture
def oracle(engine: Callable[..., Engine]) -> Callable[..., Oracle]:
    """Return `oracle(algorithm, action, **settings)`, with two hidden layers and tanh unless `policy` is given."""

    def make(algorithm: str, action: str, **settings: Any) -> Oracle:
        given = {"rollout_steps": 16, "num_envs": 1, "policy": {"hidden": (8, 8), "activation": "tanh"}}
        given |= {"optimizer": "sgd", "learning_rate_schedule": "constant"}
        ctx = engine(algorithm, env="peers/Shapes-v0", env_kwargs={"action": action}, **given | settings)
        return Oracle(ctx, action)

    return make


def relative_difference(ours: Params, theirs: Params) -> float:
    """Return the norm of the difference of two sets of tensors, divided by the norm of the second."""
    assert set(ours) == set(theirs)
    gap = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs]).norm()
    return float(gap / torch.cat([value.flatten() for value in theirs.values()]).norm())


@pytest.fixture
def difference() -> Callable[[Params, Params], float]:
    """Return the function that measures how far two sets of parameters or gradients are apart."""
    return relative_difference
