"""The inner step: one pure function of tensors for everybody who learns by gradient.

Differentiate a loss, clip each member's gradient, let the optimizer step, and hold whoever doesn't go along. Nothing
goes in or out but its argument and its result, so that the same lines run as they are or compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgzoo.ops.members import per_member
from pgzoo.ops.optim import Optimizer, clip_by_member_norm, flatten, unflatten
from pgzoo.training import gradients
from pgzoo.training.targets import Estimator, EvaluationInputs
from pgzoo.types import Batch, Hyper, LossFunction, Params, PolicyEvaluation, Targets, Trajectory

__all__ = ["After", "Before", "Collected", "InnerStep", "in_one_piece", "inner_step", "stack_metrics"]


class Before(NamedTuple):
    """What a step starts from; every leaf is a tensor with the member axis first.

    `vector [S, P]` are the parameters end to end, `hyper` the settings that are tensors, `going [S]` (bool) who steps.
    """

    vector: Tensor
    optimizer: Params
    buffers: Params
    batch: Batch | None
    hyper: Params
    learning_rate: Tensor
    going: Tensor


class After(NamedTuple):
    """Where it led.

    `rows [S]` (bool) are the members with rows that count in the batch; the others neither step nor report.
    `vector` and `optimizer` are moved for members that have rows, were going, weren't halted, and are finite;
    `reached [S, P]` is where the parameters would have come. `value`, `norm` (of `gradient [S, P]` before it was
    clipped), `finite` and `halt` are `[S]`, and `metrics [M, S]` are those in `names`.
    """

    vector: Tensor
    optimizer: Params
    reached: Tensor
    value: Tensor
    gradient: Tensor
    norm: Tensor
    finite: Tensor
    rows: Tensor
    halt: Tensor | None
    metrics: Tensor
    names: tuple[str, ...]


InnerStep = Callable[[Before], After]


def inner_step(
    loss: LossFunction,
    policy: Any,
    like: Params,
    settings: Mapping[str, Any],
    optimizer: Optimizer,
    only: str = "",
    *,
    also: str | None = None,
    padded: bool = True,
) -> InnerStep:
    """Return the step on `loss`, for parameters of the names and shapes of `like`.

    `settings` are those that are no tensors. With `only`, nothing but the parameters whose names begin with it (or
    with `also`) are moved, and the optimizer counts their steps separately. Unless it is `padded`, the batch is taken
    in one piece, and summed in whatever order is fastest.
    """
    prefixes: str | tuple[str, ...] = only if also is None or not only else (only, also)

    def step(before: Before) -> After:
        assert before.batch is not None
        params, hyper = unflatten(before.vector, like), Hyper({**settings, **before.hyper})
        result, gradient = gradients.gradient(
            loss, policy, params, before.buffers, before.batch, hyper, prefixes, padded=padded
        )
        with torch.no_grad():
            limit = hyper.max_grad_norm
            clipped, norm = clip_by_member_norm(gradient, None if limit is None else limit.reshape(-1))
            reached, remembered = optimizer.step(before.vector, clipped, before.optimizer, before.learning_rate)
            if only:
                moved = {name: float(name.startswith(prefixes)) for name in like}
                mine = flatten(torch.full((1, *p.shape[1:]), moved[n], device=p.device) for n, p in like.items()) > 0
                reached = torch.where(mine, reached, before.vector)
                remembered = {
                    name: torch.where(mine, leaf, before.optimizer[name]) if leaf.ndim == 2 else leaf
                    for name, leaf in remembered.items()
                }
            finite = torch.isfinite(result.value) & torch.isfinite(norm) & torch.isfinite(reached.abs().amax(1))
            rows = (before.batch.weights > 0).any(-1).any(-1)
            moving = before.going & rows & finite
            if result.halt is not None:
                moving = moving & ~result.halt
            metrics = {**result.metrics, f"optim/{only.replace('.', '_')}grad_norm": norm}
            if not only:
                metrics["loss/total"] = result.value
            held = {
                name: torch.where(per_member(moving, leaf), remembered[name], leaf)
                for name, leaf in before.optimizer.items()  # in that order, so that the next step looks the same
            }
            return After(
                vector=torch.where(moving.unsqueeze(1), reached, before.vector),
                optimizer=held,
                reached=reached,
                value=result.value,
                gradient=gradient,
                norm=norm,
                finite=finite,
                rows=rows,
                halt=result.halt,
                metrics=stack_metrics(metrics),
                names=tuple(metrics),
            )

    return step


class Collected(NamedTuple):
    """What a whole update starts from: a step's start, the batch of which is yet to be made, and what to make it of.

    `given` are the estimator's settings that are tensors.
    """

    before: Before
    trajectory: Trajectory
    given: Params


def in_one_piece(
    policy_evaluator: Callable[[EvaluationInputs], PolicyEvaluation] | None,
    estimate: Estimator,
    cut: Callable[[Trajectory, Targets, PolicyEvaluation | None], Batch],
    step: InnerStep,
    like: Params,
) -> Callable[[Collected], After]:
    """Return an update of one gradient step as one function: look back, estimate, make the batch, step."""

    def update(collected: Collected) -> After:
        before, trajectory, given = collected
        with torch.no_grad():
            past = EvaluationInputs(unflatten(before.vector, like) | before.buffers, trajectory)
            evaluated = policy_evaluator(past) if policy_evaluator else None
            targets = estimate(given, before.buffers, trajectory, evaluated)
            batch = cut(trajectory, targets, evaluated)
        return step(before._replace(batch=batch))

    return update


def stack_metrics(metrics: Mapping[str, Tensor]) -> Tensor:
    """Metrics of `[S]` each as one tensor `[M, S]`, in double precision."""
    return torch.stack([value.detach().double() for value in metrics.values()])
