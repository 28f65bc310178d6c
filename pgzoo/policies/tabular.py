"""A policy that is a table with a row for each state."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from pgzoo.config import ActionConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.heads import ActionHead
from pgzoo.ops.rows import table_row
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, RowPolicy, Spec


class TabularConfig(ActionConfig):
    """Settings of the `tabular` policy."""


class Tabular:
    """A table of distribution parameters, one row for each state of a Discrete observation space, and one of values.

    All entries are initially 0: the initial policy is uniform, or standard normal. States share no parameters, as in
    the textbook versions of the algorithms.

    Source: Sutton & Barto (2018), Reinforcement learning, section 13.1 (softmax in action preferences).
    """

    def __init__(self, config: TabularConfig, spec: Spec, needs: frozenset[str]) -> None:
        who, space = 'policy "tabular"', spec.observation_space
        if not isinstance(space, gym.spaces.Discrete):
            raise UnfitError(
                f"{who} doesn't fit the observation space {spec.original_space}: it needs a "
                "Discrete one. Choose another policy (pgzoo policies)."
            )
        self.states, self.first, self.needs = int(space.n), int(space.start), needs
        self.head = ActionHead(spec, config, needs, who)
        self.noise, self.noise_size, self.to_env = self.head.noise, self.head.noise_size, self.head.to_env
        self.without_effect = self.head.without_effect

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's tables `[states, outputs]` and `[states]`, all 0."""
        params = {"table": torch.zeros(self.states, self.head.outputs)} | self.head.init()
        if "value" in self.needs:
            params["critic.table"] = torch.zeros(self.states)
        if "aux_value" in self.needs:
            params["critic.aux.table"] = torch.zeros(self.states)
        return params

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return the distribution and values for a batch: obs `[S, T, B]`."""
        table, obs = params["table"], inputs.obs
        member = torch.arange(len(table), device=table.device)
        first = member.mul(self.states).sub(self.first).reshape(-1, 1, 1)  # of each member's rows
        rows = (obs + first).flatten()

        def look_up(table: Tensor) -> Tensor:  # [S, states, ...] -> [S, T, B, ...]
            return table.flatten(0, 1).index_select(0, rows).reshape(*obs.shape, *table.shape[2:])

        return Output(
            dist=self.head.distribution(look_up(table), params, inputs.action_mask),
            value=look_up(params["critic.table"]) if "value" in self.needs else None,
            aux_value=look_up(params["critic.aux.table"]) if "aux_value" in self.needs else None,
        )

    def actor(self, params: Params) -> TabularActor:
        """Return an actor on a numpy view that shares memory with the table."""
        return TabularActor(self, params)

    def row_policy(self, params: Params) -> RowPolicy | None:
        """Return the policy for the compiled collector."""
        return self.head.row_policy(table_row, params, [params["table"]], [self.states, self.first])


class TabularActor:
    """Looks up rows in numpy."""

    def __init__(self, policy: Tabular, params: Params) -> None:
        self.policy, self.table = policy, params["table"].detach().numpy()
        self.log_std = policy.head.log_std_of(params)
        self.member = np.arange(len(self.table))[:, None]

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        """Return actions `[S, N, *A]` for `obs [S, N]` and `noise [S, N, K]` or None."""
        outputs = self.table[self.member, seen.obs - self.policy.first]
        return self.policy.head.choose(outputs, self.log_std, seen.action_mask, noise), None
