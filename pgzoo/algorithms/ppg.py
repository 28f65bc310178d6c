"""PPG: phasic policy gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from pgzoo.config import ClipRange, Epochs, LearningRate, MinibatchConfig, OptimizerEps, RolloutSteps
from pgzoo.ops.losses import (
    actor_critic_loss,
    advantages_of,
    clipped_surrogate,
    log_importance_ratio,
    ratio_metrics,
    value_loss,
    weighted_mean,
)
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params, Targets, TrainState, Trajectory

STORED = ("obs", "valid", "starts", "action_mask", "memory")
"""The fields of a trajectory that the auxiliary phase needs: the inputs of the policy."""


class PPGConfig(MinibatchConfig):
    """Settings of `ppg`."""

    learning_rate: LearningRate = 2e-3
    optimizer_eps: OptimizerEps = 1e-5
    rollout_steps: RolloutSteps = 32
    epochs: Epochs = 1
    clip_range: ClipRange = 0.2
    policy_phases: Annotated[PositiveInt, Field(description="policy updates between two auxiliary phases")] = 16
    aux_epochs: Annotated[PositiveInt, Field(description="number of epochs of an auxiliary phase")] = 6
    aux_minibatches: Annotated[PositiveInt, Field(description="number of minibatches per auxiliary epoch")] = 16
    beta_clone: Annotated[float, Field(ge=0, description="weight of KL(old || new) in the auxiliary phase")] = 1.0


class PPG:
    """PPG: phases of PPO, and between them auxiliary phases that distill the value function into the policy's layers.

        policy phase:       L(θ) = PPO's clipped surrogate;  L_V = ½ E[(V(s) - G)²] for the critic's own layers alone
        auxiliary phase:    L(θ) = ½ E[(V_aux(s; θ) - G)²] + β E[KL(π_old || π)];  L_V again

    V_aux is a second value output on the policy's own layers. After every `policy_phases` updates, the auxiliary phase
    trains on all data from these updates; π_old is the policy at the start of the phase. In this way policy and value
    function share features, but gradients of the value loss never interfere with those of the policy loss, and the two
    may reuse the data a different number of times. If the critic is an output of the policy's layers, the gradient of
    L_V reaches these layers only in the auxiliary phase, as in the paper's variant with a single network.

    Rewards are normalized by default: otherwise the errors of large returns outweigh the KL, and the auxiliary phase
    undoes what the policy has learned. Both phases use the same optimizer state.

    The data since the last auxiliary phase is kept in the buffers, one rollout after the other along the axis N.

    Shapes: a batch is `[S, T, B]`, the losses `[S]`.
    Source: Cobbe et al. (2021), Phasic policy gradient, algorithm 1.
    """

    estimator = "gae"
    needs: ClassVar[frozenset[Need]] = frozenset({"value", "aux_value", "log_probs", "old"})
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_envs": 8,
        "total_steps": 150_000,
        "gamma": 0.98,
        "normalize_reward": True,
    }

    def init(self, ctx: UpdateContext, rng: np.random.Generator) -> AlgorithmState:
        """Allocate buffers for the rollouts of `policy_phases` updates."""
        space: Any = ctx.spec.observation_space
        steps = ctx.settings.rollout_steps
        columns = ctx.settings.policy_phases * ctx.num_envs
        stored = {
            "obs": torch.from_numpy(np.zeros((steps + 1, columns, *space.shape), space.dtype)),
            "valid": torch.zeros(steps, columns, dtype=torch.bool),
            "starts": torch.zeros(steps + 1, columns, dtype=torch.bool),
            "returns": torch.zeros(steps, columns),
            "windows": torch.tensor(0),
        }
        if ctx.spec.masked:
            stored["action_mask"] = torch.ones(steps + 1, columns, gym.spaces.flatdim(ctx.spec.action_space)).bool()
        if ctx.policy.memory_size:
            stored["memory"] = torch.zeros(columns, ctx.policy.memory_size)
        return AlgorithmState({}, {f"ppg.{name}": value for name, value in stored.items()})

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Train a policy phase, and an auxiliary phase after every `policy_phases` of them."""
        old = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, old)
        state = ctx.steps(self.loss, state, ctx.minibatches(state, trajectory, targets, old))
        state = state._replace(buffers=state.buffers | _store(state.buffers, trajectory, targets))
        return self._auxiliary_phase(ctx, state, trajectory)

    def _auxiliary_phase(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Take gradient steps on all stored rollouts, for members with `policy_phases` stored rollouts."""
        settings, windows = ctx.settings, state.buffers["ppg.windows"]
        due = (state.updates + 1) % settings.policy_phases == 0  # computed on the CPU: doesn't wait for the device
        if not (due & state.active).any():
            return state
        stored, targets = _load(state.buffers, trajectory, settings.policy_phases)
        epochs = range(settings.epochs, settings.epochs + settings.aux_epochs)
        old = ctx.evaluate_policy(state, stored)
        batches = ctx.minibatches(state, stored, targets, old, epochs=epochs, count=settings.aux_minibatches)
        state = ctx.steps(self.auxiliary_loss, state, batches)
        remaining = torch.where(windows == settings.policy_phases, 0, windows)
        return state._replace(buffers=state.buffers | {"ppg.windows": remaining})

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the loss of the policy phase: the clipped surrogate, the critic's loss and the entropy bonus."""
        critic_alone = {name: leaf if name.startswith("critic.") else leaf.detach() for name, leaf in params.items()}
        value = policy.apply(critic_alone, batch.inputs).value
        output = policy.apply(params, batch.inputs)._replace(value=value)
        log_ratio = log_importance_ratio(output.dist, batch)
        surrogate = clipped_surrogate(log_ratio.exp(), advantages_of(batch, hyper), hyper.clip_range)
        metrics = ratio_metrics(log_ratio, hyper.clip_range, batch.weights)
        return actor_critic_loss(-weighted_mean(surrogate, batch.weights), output, batch, hyper, metrics)

    def auxiliary_loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the losses of both value functions plus the KL from the old policy. Halts members not due."""
        output, weights, coef = policy.apply(params, batch.inputs), batch.weights, hyper.per_member
        aux_loss = value_loss(output.aux_value, batch.returns, weights)
        clone_loss = weighted_mean(batch.old.kl(output.dist), weights)
        critic_loss = value_loss(output.value, batch.returns, weights)
        return Loss(
            aux_loss + coef.beta_clone * clone_loss + coef.value_coef * critic_loss,
            {"ppg/aux_value_loss": aux_loss, "ppg/clone_kl": clone_loss, "ppg/value_loss": critic_loss},
            halt=params["ppg.windows"] < hyper.policy_phases,
        )


def _store(buffers: Params, trajectory: Trajectory, targets: Targets) -> Params:
    """Append a rollout to the stored ones along the axis N, `[S, T, columns, ...]`, and drop the oldest."""
    new = {name: getattr(trajectory, name) for name in STORED} | {"returns": targets.returns}
    updated = {"ppg.windows": buffers["ppg.windows"] + 1}
    for name, leaf in new.items():
        if leaf is not None:
            stored, axis = buffers[f"ppg.{name}"], 1 if name == "memory" else 2
            n = leaf.shape[axis]
            kept = stored.narrow(axis, n, stored.shape[axis] - n)
            updated[f"ppg.{name}"] = torch.cat([kept, leaf.to(stored.dtype)], axis)
    return updated


def _load(buffers: Params, last: Trajectory, windows: int) -> tuple[Trajectory, Targets]:
    """Return all stored rollouts as one trajectory, concatenated along N.

    Fields that are not stored are copies of those of the last rollout; the auxiliary loss doesn't read them.
    """

    def repeated(leaf: Tensor) -> Tensor:
        return leaf.repeat(1, 1, windows, *[1] * (leaf.ndim - 3))

    others: dict[str, Any] = {
        name: repeated(leaf) for name, leaf in last._asdict().items() if name not in (*STORED, "info")
    }
    stored: dict[str, Any] = {name: buffers[f"ppg.{name}"] for name in STORED if getattr(last, name) is not None}
    returns, weights = buffers["ppg.returns"], buffers["ppg.valid"].float()
    return Trajectory(**others, **stored), Targets(torch.zeros_like(returns), returns, weights)
