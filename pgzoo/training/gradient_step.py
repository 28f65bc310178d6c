"""The pure gradient step: a function of tensors, which runs eagerly or compiled.

It differentiates a loss (`training.gradients`), clips each member's gradient, and applies the optimizer. Members that
don't take part are unchanged. `training.learner` applies it to a `TrainState`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgzoo.ops.members import per_member
from pgzoo.ops.optim import Optimizer, clip_by_member_norm, flatten, member_norm, step_in_pieces, unflatten
from pgzoo.training import gradients
from pgzoo.training.targets import Estimator, EvaluationInputs, Evaluator
from pgzoo.types import Batch, Hyper, LossFunction, Params, PolicyEvaluation, Targets, Trajectory

__all__ = [
    "GradientStep",
    "GradientStepResult",
    "MakeBatch",
    "StepInput",
    "UpdateInput",
    "make_batch",
    "make_gradient_step",
    "make_whole_update",
    "stack_metrics",
]


class StepInput(NamedTuple):
    """The input of a gradient step; every leaf is a tensor with the member axis first.

    Shapes:
        vector: `[S, P]`, the parameters as one vector.
        hyper: the settings that are tensors, `[S, 1, 1]`.
        learning_rate: `[S]`, of all parameters whose names start with none of the names in `learning_rates`.
        learning_rates: `[S]` each.
        stepping: `[S]` bool, the members that take part.
    """

    vector: Tensor
    optimizer: Params
    buffers: Params
    batch: Batch | None
    hyper: Params
    learning_rate: Tensor
    learning_rates: Params
    stepping: Tensor


class GradientStepResult(NamedTuple):
    """The result of a gradient step.

    `vector` and `optimizer` are updated for members that take part, have rows with positive weight, aren't halted, and
    have only finite values.

    Shapes:
        vector: `[S, P]`, the parameters after the step.
        reached: `[S, P]`, the parameters after the step for all members, including those that don't take it.
        gradient: `[S, P]`, before clipping; `norm [S]` is its norm.
        value: `[S]`, the loss.
        counted: `[S]` bool, the members whose metrics count: those that take part, have rows with positive weight and
            aren't halted.
        failed: `[S]` bool, the members in `counted` for which something is not finite.
        halted: `[S]` bool, the members that this step halts (see `Loss.halt`); None if the loss halts no member.
        stepping: `[S]` bool, the members that take part in the next step; None if the loss halts no member.
        flags: `[2]` bool, whether any member failed, and whether any member takes part in the next step.
        metrics: `[M, S]`, in the order of `names`.
    """

    vector: Tensor
    optimizer: Params
    reached: Tensor
    value: Tensor
    gradient: Tensor
    norm: Tensor
    counted: Tensor
    failed: Tensor
    halted: Tensor | None
    stepping: Tensor | None
    flags: Tensor
    metrics: Tensor
    names: tuple[str, ...]


GradientStep = Callable[[StepInput], GradientStepResult]

MakeBatch = Callable[[Trajectory, Targets, PolicyEvaluation | None], Batch]
"""Returns a whole trajectory as one batch."""


def make_gradient_step(
    loss: LossFunction,
    policy: Any,
    like: Params,
    settings: Mapping[str, Any],
    optimizer: Optimizer,
    only: str | tuple[str, ...] = "",
    *,
    also: str | None = None,
    padded: bool = True,
) -> GradientStep:
    """Return the step on `loss` for parameters with the names and shapes of `like`.

    `settings` are those that are not tensors. With `only`, the step is limited to parameters whose names start with it
    (or with any prefix of a tuple, or with `also`), and the optimizer counts their steps separately. See
    `gradients.gradient` for `padded`.
    """
    own = (only,) if isinstance(only, str) else only
    prefixes = only if also is None or not only else (*own, also)
    label = "_".join(own).replace(".", "_")

    def step(start: StepInput) -> GradientStepResult:
        assert start.batch is not None
        params, hyper = unflatten(start.vector, like), Hyper({**settings, **start.hyper})
        result, gradient = gradients.gradient(
            loss, policy, params, start.buffers, start.batch, hyper, prefixes, padded=padded
        )
        with torch.no_grad():
            limit = hyper.max_grad_norm
            limit = None if limit is None else limit.reshape(-1)
            rate = _rate_of_each(like, start.learning_rate, start.learning_rates)
            if padded:
                reached, remembered, gradient, norm = step_over_gradient(
                    optimizer, start.vector, gradient, start.optimizer, rate, limit
                )
            else:
                clipped, norm = clip_by_member_norm(gradient, limit)
                reached, remembered = optimizer.step(start.vector, clipped, start.optimizer, rate)
            if only:
                reached, remembered = _only_for(prefixes, like, start, reached, remembered)
            # a number minus itself is 0, unless it isn't finite; faster than torch.isfinite, which is four operations
            finite = (result.value - result.value) + (norm - norm) + (reached - reached).sum(1) == 0
            rows = (start.batch.weights > 0).any(-1).any(-1)
            counted, halted, stepping = start.stepping & rows, None, None
            if result.halt is not None:
                halted = result.halt & rows
                stepping = start.stepping & ~halted
                counted = counted & ~result.halt
            moving, failed = counted & finite, counted & ~finite
            flags = torch.stack([failed.any(), (start.stepping if stepping is None else stepping).any()])
            metrics = {**result.metrics, f"optim/{label}grad_norm": norm}
            if not only:
                metrics["loss/total"] = result.value
            everyone = padded and bool(moving.all())  # reads a tensor, which compiled code can't and a GPU is slow at

            def chosen(new: Tensor, old: Tensor) -> Tensor:
                return new if everyone else torch.where(per_member(moving, old), new, old)

            return GradientStepResult(
                vector=chosen(reached, start.vector),
                # in the order of `start`, which compiled steps depend on
                optimizer={name: chosen(remembered[name], leaf) for name, leaf in start.optimizer.items()},
                reached=reached,
                value=result.value,
                gradient=gradient,
                norm=norm,
                counted=counted,
                failed=failed,
                halted=halted,
                stepping=stepping,
                flags=flags,
                metrics=stack_metrics(metrics),
                names=tuple(metrics),
            )

    return step


def step_over_gradient(
    optimizer: Optimizer, vector: Tensor, gradient: Tensor, state: Params, rate: Tensor, limit: Tensor | None
) -> tuple[Tensor, Params, Tensor, Tensor]:
    """Return the vector and the state after a step, the gradient, and its norm `[S]` before it was clipped.

    A large gradient is overwritten with the new vector if it is finite, and zeros are returned in its place: a gradient
    is only needed afterward to find out what wasn't finite.
    """
    norm, factor = member_norm(gradient, limit)
    out = gradient if torch.isfinite(norm).all() else None
    moved, after = step_in_pieces(optimizer, vector, gradient, state, rate, factor=factor, out=out)
    return moved, after, torch.zeros(1, 1).expand_as(moved) if moved is gradient else gradient, norm


def _only_for(
    prefixes: str | tuple[str, ...], like: Params, start: StepInput, reached: Tensor, remembered: Params
) -> tuple[Tensor, Params]:
    """Return the vector and the optimizer's state after a step, unchanged for parameters without these prefixes."""
    moved = {name: float(name.startswith(prefixes)) for name in like}
    mine = flatten(torch.full((1, *p.shape[1:]), moved[n], device=p.device) for n, p in like.items()) > 0
    return torch.where(mine, reached, start.vector), {
        name: torch.where(mine, leaf, start.optimizer[name]) if leaf.ndim == 2 else leaf
        for name, leaf in remembered.items()
    }


def _rate_of_each(like: Params, default: Tensor, rates: Params) -> Tensor:
    """Return the learning rate of each parameter, `[S, P]`, or `default [S]` if no name has a rate of its own."""
    if not rates:
        return default
    of_leaf = {name: next((rates[prefix] for prefix in rates if name.startswith(prefix)), default) for name in like}
    return torch.cat([rate[:, None].expand(-1, like[name].shape[1:].numel()) for name, rate in of_leaf.items()], 1)


class UpdateInput(NamedTuple):
    """The input of the compiled update: the input of the step without its batch, and the data to make the batch from.

    `given` are the estimator's settings that are tensors.
    """

    start: StepInput
    trajectory: Trajectory
    given: Params


def make_whole_update(
    evaluator: Evaluator | None, estimator: Estimator, cut: MakeBatch, step: GradientStep, like: Params
) -> Callable[[UpdateInput], GradientStepResult]:
    """Return an update of one gradient step as one function: evaluate the policy, estimate, make a batch, step."""

    def update(collected: UpdateInput) -> GradientStepResult:
        start, trajectory, given = collected
        params = unflatten(start.vector, like)
        batch = make_batch(evaluator, estimator, cut, params, start.buffers, trajectory, given)
        return step(start._replace(batch=batch))

    return update


def make_batch(
    evaluator: Evaluator | None,
    estimator: Estimator,
    cut: MakeBatch,
    params: Params,
    buffers: Params,
    trajectory: Trajectory,
    given: Params,
) -> Batch:
    """Evaluate the policy on a trajectory if there is an `evaluator`, estimate, and return the whole as one batch."""
    with torch.no_grad():
        evaluated = evaluator(EvaluationInputs(params | buffers, trajectory)) if evaluator else None
        return cut(trajectory, estimator(given, buffers, trajectory, evaluated), evaluated)


def stack_metrics(metrics: Mapping[str, Tensor]) -> Tensor:
    """Stack metrics of `[S]` each into one tensor `[M, S]` of double precision."""
    values = [value.detach() for value in metrics.values()]
    if len({value.dtype for value in values}) == 1:  # values of several types would be converted to a common one first
        return torch.stack(values).double()
    return torch.stack([value.double() for value in values])
