"""An algorithm that learns nothing in its first five updates, draws noise, and keeps a running mean in the state."""

import numpy as np
import torch

import pgzoo
from pgzoo.ops.losses import weighted_mean
from pgzoo.types import AlgorithmState


class WarmUp:
    """REINFORCE with a running mean as its baseline and noise on the advantages (Williams 1992)."""

    collect = pgzoo.Episodes(per_env=1)
    estimator = "reward-to-go"
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def init(self, ctx, rng):
        return AlgorithmState({}, {"warm-up.mean": torch.zeros(())})

    def loop(self, ctx):
        while ctx.running():
            state, trajectory = ctx.collect(ctx.state)
            targets = ctx.estimate(state, trajectory)
            mean = 0.9 * state.buffers["warm-up.mean"] + 0.1 * weighted_mean(targets.returns, targets.weights)
            state = state._replace(buffers=state.buffers | {"warm-up.mean": mean})
            seeds = range(len(ctx.members))
            noise = np.array([ctx.rng("noise", seed, state).standard_normal() for seed in seeds])
            advantages = targets.returns - (mean + 0.1 * torch.from_numpy(noise).float())[:, None, None]
            if state.updates.max() >= 5:
                state = ctx.step(self.loss, state, ctx.batch(trajectory, targets._replace(advantages=advantages)))
            ctx.state = state
            yield

    def loss(self, policy, params, batch, hyper):
        log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
        return -weighted_mean(log_probs * batch.advantages, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("warm-up", WarmUp)
