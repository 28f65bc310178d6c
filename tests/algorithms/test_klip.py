"""KLip-PPO is PPO: its per-sample penalty on -ln r has the gradient of the clipped surrogate (decision 0020)."""

from __future__ import annotations

import pytest
import torch

from pgzoo.ops.losses import clipped_surrogate

ROWS = [(1.0, 2.0), (1.1, 2.0), (1.5, 2.0), (0.5, 2.0), (0.9, -3.0), (0.5, -3.0), (1.5, -3.0), (1.4, 0.0)]
"""Ratio and advantage: inside the clip range, outside with a gradient of zero, and outside with a nonzero one."""


@pytest.mark.parametrize(("ratio", "advantage"), ROWS)
def test_klip_gradient_equals_the_gradient_of_the_clipped_surrogate(ratio: float, advantage: float) -> None:
    """L = -E[ r A ] + E[ β (-ln r) ],  β = -r A where PPO clips away the gradient, else 0, and not differentiated."""
    log_ratio = torch.tensor([[[ratio]]]).log().requires_grad_()
    a, clip = torch.tensor([[[advantage]]]), torch.tensor([[[0.2]]])
    r = log_ratio.exp()
    clipped = ((a > 0) & (r > 1 + clip)) | ((a < 0) & (r < 1 - clip))
    beta = torch.where(clipped, -r * a, 0.0).detach()
    klip = (-(r * a) + beta * -log_ratio).sum()
    ppo = -clipped_surrogate(log_ratio.exp(), a, clip).sum()
    (one,), (other,) = torch.autograd.grad(klip, log_ratio), torch.autograd.grad(ppo, log_ratio)
    assert one.item() == pytest.approx(other.item(), abs=1e-6)
