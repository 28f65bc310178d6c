"""IMPALA: an actor-critic that corrects for the age of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pgzoo.config import EntropyCoef, Epochs, MinibatchConfig, Minibatches, NormalizeAdvantages, RolloutSteps
from pgzoo.ops.losses import actor_critic_loss, standardize, weighted_mean
from pgzoo.types import Batch, Hyper, Loss, Need, Params, Steps, TrainState, Trajectory


class IMPALAConfig(MinibatchConfig):
    """Settings of `impala`."""

    rollout_steps: RolloutSteps = 20
    entropy_coef: EntropyCoef = 0.01
    epochs: Epochs = 2
    minibatches: Minibatches = 2
    normalize_advantages: NormalizeAdvantages = False


class IMPALA:
    """IMPALA: policy and critic learn from V-trace, which reweighs the steps of whichever policy acted.

        ∇J(θ) = E[ ρ (r + γ v' - V(s)) ∇ log π(a|s; θ) ],  v the V-trace targets of the critic,  ρ = min(ρ̄, π/μ)

    μ is the policy that acted. Here actor and learner are in step: the first epoch is on-policy, and from the second on
    the data is as old as the steps since; targets are estimated anew before each. An actor that lags behind would
    change nothing but the log-probabilities under μ. The weight ρ is in the advantage that the estimator gives.

    Shapes: a batch is `[S, T, B]`, the loss `[S]`.
    Source: Espeholt et al. (2018), IMPALA: scalable distributed deep-RL with importance weighted actor-learner
        architectures, section 4.
    """

    estimator = "v-trace"
    needs: ClassVar[frozenset[Need]] = frozenset({"value"})
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "total_steps": 200_000, "gamma": 0.98}

    def collect(self, settings: IMPALAConfig) -> Steps:
        """Windows of `rollout_steps`."""
        return Steps(settings.rollout_steps)

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Several epochs on one collection, each with targets of its own."""
        now = ctx.evaluate_policy(state, trajectory)
        behavior = now.log_probs
        for epoch in range(ctx.plan.config.settings.epochs):
            if epoch:
                now = ctx.evaluate_policy(state, trajectory)
            targets = ctx.estimate(state, trajectory, now, behavior=behavior)
            for batch in ctx.minibatches(state, trajectory, targets, now, epochs=range(epoch, epoch + 1)):
                state = ctx.step(self.loss, state, batch)
        return state

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        """The score weighted by the advantage, the critic's error and the bonus."""
        output, weights = policy.apply(params, batch.inputs), batch.weights
        advantage = standardize(batch.advantages, weights) if hyper.normalize_advantages else batch.advantages
        policy_loss = -weighted_mean(output.dist.log_prob(batch.actions) * advantage, weights)
        return actor_critic_loss(policy_loss, output, batch, hyper)
