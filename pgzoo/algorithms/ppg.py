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
from pgzoo.ops.acting import memory_size
from pgzoo.ops.losses import (
    actor_critic_loss,
    clip_fraction,
    clipped_surrogate,
    kl_estimate,
    standardize,
    value_loss,
    weighted_mean,
)
from pgzoo.types import AlgorithmState, Batch, Hyper, Loss, Need, Params, Steps, Targets, TrainState, Trajectory

STORED = ("obs", "valid", "starts", "action_mask", "memory")
"""What the auxiliary phase needs of a trajectory: what the policy saw."""


class PPGConfig(MinibatchConfig):
    """Settings of `ppg`."""

    learning_rate: LearningRate = 2e-3
    optimizer_eps: OptimizerEps = 1e-5
    rollout_steps: RolloutSteps = 32
    epochs: Epochs = 1
    clip_range: ClipRange = 0.2
    policy_phases: Annotated[PositiveInt, Field(description="updates of the policy between two auxiliary phases")] = 16
    aux_epochs: Annotated[PositiveInt, Field(description="times that an auxiliary phase goes through them all")] = 6
    aux_minibatches: Annotated[PositiveInt, Field(description="parts of such an epoch, a gradient step each")] = 16
    beta_clone: Annotated[float, Field(ge=0, description="weight of KL(old || new) in the auxiliary phase")] = 1.0


class PPG:
    """PPG: train the policy alone, and now and then teach its layers what the critic knows.

        policy phase:       L(θ) = PPO's clipped surrogate;  L_V = ½ E[(V(s) - G)²] on a critic of its own layers
        auxiliary phase:    L(θ) = ½ E[(V_aux(s; θ) - G)²] + β E[KL(π_old || π)];  L_V again

    V_aux is a second value on the policy's own layers. Every `policy_phases` updates the auxiliary phase goes through
    all that they collected; π_old is the policy as that phase begins. So the layers are shared in what they learn, yet
    the value's gradient never disturbs the policy's, and both may see the data a different number of times.

    Rewards are scaled by default: the errors of large returns would outweigh the KL, and the auxiliary phase undo the
    policy. Both phases share one optimizer, its moments too.

    What was collected since the last auxiliary phase lies in the state, window beside window on the axis N.

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

    def collect(self, settings: PPGConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def init(self, ctx: Any, rng: np.random.Generator) -> AlgorithmState:
        """Room for the windows of `policy_phases` updates, side by side."""
        plan, settings = ctx.plan, ctx.plan.config.settings
        space, steps, columns = plan.spec.observation_space, settings.rollout_steps, self._columns(plan)
        kind = torch.from_numpy(space.sample()[None]).dtype if space.shape else torch.int64
        kept = {
            "obs": torch.zeros(steps + 1, columns, *space.shape, dtype=kind),
            "valid": torch.zeros(steps, columns, dtype=torch.bool),
            "starts": torch.zeros(steps + 1, columns, dtype=torch.bool),
            "returns": torch.zeros(steps, columns),
            "windows": torch.tensor(0),
        }
        if plan.spec.masked:
            kept["action_mask"] = torch.ones(steps + 1, columns, gym.spaces.flatdim(plan.spec.action_space)).bool()
        if remembered := memory_size(plan.policy):
            kept["memory"] = torch.zeros(columns, remembered)
        return AlgorithmState({}, {f"ppg.{name}": value for name, value in kept.items()})

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """A policy phase; and an auxiliary phase, if it is the last before one."""
        old = ctx.evaluate_policy(state, trajectory)
        targets = ctx.estimate(state, trajectory, old)
        for batch in ctx.minibatches(state, trajectory, targets, old):
            state = ctx.step(self.loss, state, batch)
        state = state._replace(buffers=state.buffers | _stored(state.buffers, trajectory, targets))
        return self._auxiliary_phase(ctx, state, trajectory)

    def _auxiliary_phase(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Steps of the members that have all their windows."""
        settings, windows = ctx.plan.config.settings, state.buffers["ppg.windows"]
        due = (state.updates + 1) % settings.policy_phases == 0  # known without a look at `windows`
        if not (due & state.active).any():
            return state
        seen, targets = _everything(state.buffers, trajectory, settings.policy_phases)
        epochs = range(settings.epochs, settings.epochs + settings.aux_epochs)
        old = ctx.evaluate_policy(state, seen)
        for batch in ctx.minibatches(state, seen, targets, old, epochs=epochs, count=settings.aux_minibatches):
            state = ctx.step(self.auxiliary_loss, state, batch)
        left = torch.where(windows == settings.policy_phases, 0, windows)
        return state._replace(buffers=state.buffers | {"ppg.windows": left})

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The clipped surrogate, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages

        log_ratio = output.dist.log_prob(batch.actions) - batch.log_probs
        ratio = log_ratio.exp()
        policy_loss = -weighted_mean(clipped_surrogate(ratio, advantage, hyper.clip_range), weights)
        moved = {
            "policy/kl": kl_estimate(log_ratio, weights),
            "policy/clip_fraction": clip_fraction(ratio, hyper.clip_range, weights),
        }
        return actor_critic_loss(policy_loss, output, batch, hyper, moved)

    def auxiliary_loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Both values' errors, and the distance from the policy as it was; nothing for a member that isn't due."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        aux_loss = value_loss(output.aux_value, batch.returns, weights)
        clone_loss = weighted_mean(batch.old.kl(output.dist), weights)
        critic_loss = value_loss(output.value, batch.returns, weights)
        return Loss(
            aux_loss + hyper.beta_clone.flatten() * clone_loss + hyper.value_coef.flatten() * critic_loss,
            {"ppg/aux_value_loss": aux_loss, "ppg/clone_kl": clone_loss, "ppg/value_loss": critic_loss},
            halt=params["ppg.windows"] < hyper.policy_phases,
        )

    def _columns(self, plan: Any) -> int:
        return int(plan.config.settings.policy_phases * plan.config.num_envs)


def _stored(buffers: Params, trajectory: Trajectory, targets: Targets) -> Params:
    """Put a window behind the others, `[S, T, columns, ...]`; the oldest one leaves."""
    fresh = {name: getattr(trajectory, name) for name in STORED} | {"returns": targets.returns}
    axes = {"memory": 1}
    moved = {"ppg.windows": buffers["ppg.windows"] + 1}
    for name, new in fresh.items():
        if new is not None:
            known, axis = buffers[f"ppg.{name}"], axes.get(name, 2)
            n = new.shape[axis]
            moved[f"ppg.{name}"] = torch.cat([known.narrow(axis, n, known.shape[axis] - n), new.to(known.dtype)], axis)
    return moved


def _everything(buffers: Params, last: Trajectory, windows: int) -> tuple[Trajectory, Targets]:
    """All windows as one trajectory with an environment for each; of what isn't stored, the last window's stands in."""

    def repeated(leaf: Tensor) -> Tensor:
        return leaf.repeat(1, 1, windows, *[1] * (leaf.ndim - 3))

    others = {name: repeated(leaf) for name, leaf in last._asdict().items() if name not in STORED}
    stored = {name: buffers[f"ppg.{name}"] for name in STORED if getattr(last, name) is not None}
    returns, weights = buffers["ppg.returns"], buffers["ppg.valid"].float()
    return Trajectory(**others, **stored), Targets(torch.zeros_like(returns), returns, weights)
