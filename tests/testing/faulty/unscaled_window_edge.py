"""The value after the last step of a window isn't discounted: `window-edge`."""

import torch

import pgzoo
from pgzoo.ops.returns import reverse_scan


def estimate(*, rewards, values, next_values, terminated, truncated, valid, gamma):
    """GAE with lambda = 0.95 (Schulman et al. 2016)."""
    ahead = gamma * next_values
    ahead[..., -1, :] = next_values[..., -1, :]
    errors = rewards + ahead * ~terminated - values
    goes_on = valid & ~(terminated | truncated)
    advantages = reverse_scan(torch.where(valid, errors, 0.0), 0.95 * gamma * goes_on)
    return advantages, torch.where(valid, advantages + values, 0.0)


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.estimator("unscaled-window-edge", estimate)
