"""IMPALA: an actor-critic that corrects for off-policy data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import EntropyCoef, Epochs, MinibatchConfig, Minibatches, NormalizeAdvantages, RolloutSteps
from pgzoo.ops.losses import actor_critic_loss, advantages_of, policy_gradient_loss
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.types import Batch, Hyper, Loss, Need, Params, TrainState, Trajectory


class IMPALAConfig(MinibatchConfig):
    """Settings of `impala`."""

    rollout_steps: RolloutSteps = 20
    entropy_coef: EntropyCoef = 0.01
    epochs: Epochs = 2
    minibatches: Minibatches = 2
    normalize_advantages: NormalizeAdvantages = False


class IMPALA:
    """IMPALA: policy and critic learn from V-trace, which corrects for off-policy data.

        ∇J(θ) = E[ ρ (r + γ v' - V(s)) ∇ log π(a|s; θ) ],  v the V-trace targets of the critic,  ρ = min(ρ̄, π/μ)

    μ is the policy that collected the data. In the paper, data is off-policy because actors run asynchronously; here it
    becomes off-policy by repeated use: the first epoch is on-policy, and before each later one the targets are
    estimated again with the ratio to μ. The estimator includes the weight ρ in the advantages.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Espeholt et al. (2018), IMPALA: scalable distributed deep-RL with importance weighted actor-learner
        architectures, section 4.
    """

    estimator = "v-trace"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 200_000, "gamma": 0.98}

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Train for several epochs on one rollout, with V-trace targets recomputed before each."""
        now = ctx.evaluate_policy(state, trajectory)
        behavior = now.log_probs
        for epoch in range(ctx.settings.epochs):
            if epoch:
                now = ctx.evaluate_policy(state, trajectory)
            targets = ctx.estimate(state, trajectory, now, behavior=behavior)
            batches = ctx.minibatches(state, trajectory, targets, now, epochs=range(epoch, epoch + 1))
            state = ctx.steps(self.loss, state, batches)
        return state

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """Return the policy-gradient loss, the critic's loss and the entropy bonus."""
        output = policy.apply(params, batch.inputs)
        policy_loss = policy_gradient_loss(output.dist, advantages_of(batch, hyper), batch)
        return actor_critic_loss(policy_loss, output, batch, hyper)
