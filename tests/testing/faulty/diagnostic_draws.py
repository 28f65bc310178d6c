"""The diagnostic draws from torch's global generator: `generators`."""

import torch

import pgzoo
from pgzoo.ops.losses import weighted_mean


class Sensitivity:
    """How much the probabilities change if the observations are noisy."""

    def measure(self, ctx, state, trajectory):
        noisy = trajectory._replace(obs=trajectory.obs + 0.01 * torch.randn(trajectory.obs.shape))
        plain, other = (ctx.evaluate_policy(state, one).log_probs for one in (trajectory, noisy))
        return weighted_mean((plain - other).abs(), trajectory.valid.float())


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.diagnostic("sensitivity", Sensitivity)
