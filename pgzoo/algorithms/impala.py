"""IMPALA: an actor-critic that corrects for off-policy data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from pgzoo.config import EntropyCoef, Epochs, MinibatchConfig, Minibatches, NormalizeAdvantages, RolloutSteps
from pgzoo.ops.losses import actor_critic_loss, advantages_of, policy_gradient_loss, weighted_mean
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params, PolicyEvaluation, TrainState, Trajectory

PREFIX = "impala.rollout."

STORED = (
    "obs",
    "actions",
    "rewards",
    "terminated",
    "truncated",
    "valid",
    "starts",
    "timestep",
    "action_mask",
    "memory",
)
"""The parts of a trajectory that are stored until it is used, besides the values of the environment's info."""

INFO = PREFIX + "info."
"""Prefix of the names of the buffers with those values."""


class IMPALAConfig(MinibatchConfig):
    """Settings of `impala`."""

    rollout_steps: RolloutSteps = 20
    entropy_coef: EntropyCoef = 0.01
    epochs: Epochs = 2
    minibatches: Minibatches = 2
    normalize_advantages: NormalizeAdvantages = False
    lag: Annotated[
        NonNegativeInt,
        Field(
            description="number of updates after which a rollout is used; 0: at once. With 1 or more, the process that "
            "trains doesn't wait for --rollout-workers: they collect while it trains"
        ),
    ] = 0


class IMPALA:
    """IMPALA: policy and critic learn from V-trace, which corrects for off-policy data.

        ∇J(θ) = E[ ρ (r + γ v' - V(s)) ∇ log π(a|s; θ) ],  v the V-trace targets of the critic,  ρ = min(ρ̄, π/μ)

    μ is the policy that collected the data. In the paper, data is off-policy because actors run asynchronously; here it
    becomes off-policy by repeated use, and by the setting `lag`: with a lag of 2, each update trains on the rollout
    that was collected two updates ago, with the parameters of that time. Before each epoch, the targets are estimated
    again with the ratio to μ. The estimator includes the weight ρ in the advantages. The lag is fixed, so the results
    don't depend on the speed of the machine.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Espeholt et al. (2018), IMPALA: scalable distributed deep-RL with importance weighted actor-learner
        architectures, section 4.
    """

    estimator = "v-trace"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 200_000, "gamma": 0.98}

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Allocate buffers for the last `lag` rollouts and their actions' log-probabilities, `[lag, T, N, ...]`."""
        lag, steps, n = ctx.settings.lag, ctx.settings.rollout_steps, ctx.num_envs
        if not lag:
            return AlgorithmState({}, {})
        seen: Any = ctx.spec.observation_space
        acts: Any = ctx.spec.action_space
        box = isinstance(acts, gym.spaces.Box)
        action = (gym.spaces.flatdim(acts),) if box else acts.shape  # trajectories hold the actions of a Box flat
        flags = {name: torch.zeros(lag, steps, n, dtype=torch.bool) for name in ("terminated", "truncated", "valid")}
        numbers = {name: torch.zeros(lag, steps, n) for name in ("rewards", "log_probs")}
        stored = (
            flags
            | numbers
            | {
                "obs": torch.from_numpy(np.zeros((lag, steps + 1, n, *seen.shape), seen.dtype)),
                "actions": torch.zeros(lag, steps, n, *action, dtype=torch.float32 if box else torch.int64),
                "starts": torch.zeros(lag, steps + 1, n, dtype=torch.bool),
                "timestep": torch.zeros(lag, steps, n, dtype=torch.int64),
                "count": torch.tensor(0),
            }
        )
        if ctx.spec.masked:
            stored["action_mask"] = torch.ones(lag, steps + 1, n, gym.spaces.flatdim(acts), dtype=torch.bool)
        if ctx.policy.memory_size:
            stored["memory"] = torch.zeros(lag, n, ctx.policy.memory_size)
        info = {INFO + key: torch.zeros(lag, steps, n) for key in ctx.info}
        return AlgorithmState({}, {PREFIX + name: value for name, value in stored.items()} | info)

    def update_meanwhile(self, ctx: UpdateContext, state: TrainState) -> TrainState:
        """With a lag, train on the oldest stored rollout. Rollout workers collect the next one at the same time.

        `impala/lag_kl` estimates KL(μ || π), where μ is the policy that collected the rollout and π the trained one.
        """
        if not ctx.settings.lag:
            return state
        ready = state.buffers[f"{PREFIX}count"] >= ctx.settings.lag
        if not ready.any():
            return state
        trajectory, behavior = _oldest(state.buffers)
        now = ctx.evaluate_policy(state, trajectory)
        ctx.report({"impala/lag_kl": weighted_mean(behavior - now.log_probs, trajectory.valid.float())}, ready)
        return self._train(ctx, state, trajectory, behavior, now)

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Train on the rollout; with a lag, store it instead."""
        now = ctx.evaluate_policy(ctx.state, trajectory)  # the parameters that collected it
        if not ctx.settings.lag:
            return self._train(ctx, state, trajectory, now.log_probs, now)
        return state._replace(buffers=state.buffers | _store(state.buffers, trajectory, now.log_probs))

    def _train(
        self,
        ctx: UpdateContext,
        state: TrainState,
        trajectory: Trajectory,
        behavior: Tensor,
        now: PolicyEvaluation,
    ) -> TrainState:
        """Train for several epochs on one rollout, with V-trace targets recomputed before each."""
        for epoch in range(ctx.settings.epochs):
            if epoch:
                now = ctx.evaluate_policy(state, trajectory)
            targets = ctx.estimate(state, trajectory, now, behavior=behavior)
            batches = ctx.minibatches(state, trajectory, targets, now, epochs=range(epoch, epoch + 1))
            state = ctx.steps(self.loss, state, batches)
        return state

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the policy-gradient loss, the critic's loss and the entropy bonus.

        Members that have not collected as many rollouts as the lag requires don't take the step.
        """
        output = policy.apply(params, batch.inputs)
        policy_loss = policy_gradient_loss(output.dist, advantages_of(batch, hyper), batch)
        loss = actor_critic_loss(policy_loss, output, batch, hyper)
        return loss._replace(halt=params[f"{PREFIX}count"] < hyper.lag) if hyper.lag else loss


def _store(buffers: Params, trajectory: Trajectory, log_probs: Tensor) -> Params:
    """Return the buffers with this rollout in place of the oldest one, `[S, lag, T, N, ...]`."""
    new = {name: getattr(trajectory, name) for name in STORED} | {"log_probs": log_probs}
    named = {PREFIX + name: leaf for name, leaf in new.items() if leaf is not None}
    named |= {INFO + key: leaf for key, leaf in (trajectory.info or {}).items()}
    updated = {f"{PREFIX}count": buffers[f"{PREFIX}count"] + 1}
    for name, leaf in named.items():
        stored = buffers[name]
        updated[name] = torch.cat([stored[:, 1:], leaf.unsqueeze(1).to(stored.dtype)], 1)
    return updated


def _oldest(buffers: Params) -> tuple[Trajectory, Tensor]:
    """Return the oldest stored rollout, and the log-probabilities of its actions."""
    stored: dict[str, Any] = {name: buffers[PREFIX + name][:, 0] for name in STORED if PREFIX + name in buffers}
    info = {name.removeprefix(INFO): leaf[:, 0] for name, leaf in buffers.items() if name.startswith(INFO)}
    return Trajectory(**stored, info=info or None), buffers[f"{PREFIX}log_probs"][:, 0]
