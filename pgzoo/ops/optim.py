"""Optimisers as pure functions over named tensors `[S, ...]`, every member with its own step count.

They equal torch's own to rounding (tested), and exist because the member axis, the freezing of members and a
compiled step need an update without hidden state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pgzoo.ops.members import per_member
from pgzoo.types import Params

__all__ = ["OPTIMIZERS", "Optimizer", "clip_by_member_norm"]


class Optimizer(NamedTuple):
    """`init(params) -> state` and `step(params, gradients, state, learning_rate [S]) -> (params, state)`."""

    init: Callable[[Params], Params]
    step: Callable[[Params, Params, Params, Tensor], tuple[Params, Params]]


def clip_by_member_norm(gradients: Params, max_norm: Tensor | None) -> tuple[Params, Tensor]:
    """Scale each member's gradient to at most `max_norm [S]`; return it with the norm `[S]` before clipping."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
    norm = torch.stack(squares).sum(0).sqrt()
    if max_norm is None:
        return gradients, norm
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return {name: gradient * per_member(scale, gradient) for name, gradient in gradients.items()}, norm


def _zeros(params: Params, *slots: str) -> Params:
    members = next(iter(params.values())).shape[0]
    state = {f"{slot}.{name}": torch.zeros_like(p) for slot in slots for name, p in params.items()}
    return {"step": torch.zeros(members)} | state


def _adam_step(params: Params, gradients: Params, state: Params, learning_rate: Tensor) -> tuple[Params, Params]:
    """Adam (Kingma & Ba 2015, algorithm 1), beta = (0.9, 0.999), eps = 1e-8."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    step = state["step"] + 1
    scale = learning_rate / (1 - beta1**step)
    root = (1 - beta2**step).sqrt()
    new_params, new_state = {}, {"step": step}
    for name, gradient in gradients.items():
        mean = new_state[f"mean.{name}"] = state[f"mean.{name}"].lerp(gradient, 1 - beta1)
        square = new_state[f"square.{name}"] = beta2 * state[f"square.{name}"] + (1 - beta2) * gradient.square()
        denominator = square.sqrt() / per_member(root, gradient) + eps
        new_params[name] = params[name] - per_member(scale, gradient) * mean / denominator
    return new_params, new_state


def _rmsprop_step(params: Params, gradients: Params, state: Params, learning_rate: Tensor) -> tuple[Params, Params]:
    """RMSprop (Tieleman & Hinton 2012), alpha = 0.99, eps = 1e-5 outside the root."""
    alpha, eps = 0.99, 1e-5
    new_params, new_state = {}, {"step": state["step"] + 1}
    for name, gradient in gradients.items():
        square = new_state[f"square.{name}"] = alpha * state[f"square.{name}"] + (1 - alpha) * gradient.square()
        new_params[name] = params[name] - per_member(learning_rate, gradient) * gradient / (square.sqrt() + eps)
    return new_params, new_state


def _sgd_step(params: Params, gradients: Params, state: Params, learning_rate: Tensor) -> tuple[Params, Params]:
    """Plain stochastic gradient descent."""
    new_params = {name: params[name] - per_member(learning_rate, g) * g for name, g in gradients.items()}
    return new_params, {"step": state["step"] + 1}


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(lambda params: _zeros(params, "mean", "square"), _adam_step),
    "rmsprop": Optimizer(lambda params: _zeros(params, "square"), _rmsprop_step),
    "sgd": Optimizer(_zeros, _sgd_step),
}
