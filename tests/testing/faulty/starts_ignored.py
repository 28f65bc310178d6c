"""The loss ignores where episodes start, so that a recurrent policy keeps its memory: `episode-starts`."""

import torch

import pgzoo
from pgzoo.ops.losses import weighted_mean


class StartsIgnored:
    """A policy gradient (Williams 1992)."""

    collect = pgzoo.Steps(16)
    estimator = "reward-to-go"
    defaults = {"num_envs": 4, "total_steps": 50_000}

    def loss(self, policy, params, batch, hyper):
        inputs = batch.inputs
        if inputs.starts is not None:
            inputs = inputs._replace(starts=torch.zeros_like(inputs.starts))
        log_probs = policy.apply(params, inputs).dist.log_prob(batch.actions)
        return -weighted_mean(log_probs * batch.advantages, batch.weights)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.algorithm("starts-ignored", StartsIgnored, recurrent=True)
