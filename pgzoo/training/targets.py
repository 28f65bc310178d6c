"""Learning targets of a trajectory: evaluate the policy on it, and estimate returns and advantages.

Both are pure functions of tensors, which run eagerly, compiled, or as part of a larger compiled function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgzoo.config import AlgorithmConfig, RunConfig
from pgzoo.errors import RunFailed, UnfitError, did_you_mean
from pgzoo.ops.members import map_leaves
from pgzoo.ops.nets import ROW_ALIGN, ROW_BLOCK
from pgzoo.ops.normalize import scale_rewards
from pgzoo.ops.order import sums_in_any_order
from pgzoo.training.minibatches import flatten_steps
from pgzoo.training.plan import Plan, PolicyView
from pgzoo.types import Inputs, Output, Params, PolicyEvaluation, Steps, Targets, Trajectory

__all__ = [
    "VALUE_NEEDS",
    "Estimation",
    "EstimationInputs",
    "Estimator",
    "EvaluationInputs",
    "Evaluator",
    "bind_estimator",
    "evaluate_and_estimate",
    "policy_evaluator",
    "requires_values",
]

VALUE_NEEDS = frozenset({"value", "action_values", "own_values"})
"""The needs of an algorithm that has values of states for the estimator."""

VALUES = frozenset({"values", "next_values"})
"""The arguments of an estimator that come from a critic."""

IMAGE_BYTES = 4096
"""Size from which observations of bytes count as images."""

FIELDS = [name for name in Trajectory._fields if name not in ("action_mask", "memory", "info")]
"""The fields of a trajectory that an estimator may take in every run."""


class EvaluationInputs(NamedTuple):
    """A trajectory, and the parameters and buffers (as one dict) to evaluate on it."""

    params: Params
    trajectory: Trajectory


Evaluator = Callable[[EvaluationInputs], PolicyEvaluation]


class EstimationInputs(NamedTuple):
    """What the policy is evaluated on, and the estimator's settings that are tensors."""

    evaluation: EvaluationInputs
    given: Params


class Estimation(NamedTuple):
    """The policy's evaluation, and the targets estimated with it."""

    evaluated: PolicyEvaluation
    targets: Targets


def policy_evaluator(plan: Plan, policy: PolicyView, *, padded: bool = True) -> Evaluator:
    """Return the function that evaluates the policy at every step; `padded` as in `gradients.gradient`.

    It does so in one pass, or with `padded`, if observations are images, in pieces of about `ROW_BLOCK` rows per
    member, because a pass copies its observations.
    """

    def evaluate(inputs: EvaluationInputs) -> PolicyEvaluation:
        params, trajectory = inputs
        mask = trajectory.action_mask
        if "action_values" in plan.needs and mask is not None:
            # after a truncation, the largest action value counts, also where the environment allows no action any more
            trajectory = trajectory._replace(action_mask=mask | ~mask.any(-1, keepdim=True))
        with sums_in_any_order(not padded):
            if trajectory.memory is not None:
                sequences = Inputs(trajectory.obs, trajectory.action_mask, trajectory.memory, trajectory.starts)
                output = policy.apply(params, sequences)
            else:
                output = by_rows(params, trajectory)
        dist = output.dist.map(lambda leaf: leaf[:, :-1])
        if "action_values" in plan.needs:
            everywhere: Any = output.dist
            output = output._replace(value=everywhere.state_value())
        return PolicyEvaluation(output.value, dist.log_prob(trajectory.actions), dist)

    def by_rows(params: Params, trajectory: Trajectory) -> Output:
        """Evaluate a policy without memory on steps as the rows of padded batches."""
        _, steps, n = trajectory.starts.shape
        align = ROW_ALIGN if isinstance(plan.collection, Steps) else ROW_BLOCK
        length = max(1, ROW_BLOCK // n) if padded and _are_images(trajectory.obs) else steps

        def piece(first: int) -> Output:
            count = min(length, steps - first)

            def rows(leaf: Tensor) -> Tensor:
                return flatten_steps(leaf[:, first : first + count], align)

            def lift(leaf: Tensor) -> Tensor:
                return leaf[:, 0, : count * n].reshape(len(leaf), count, n, *leaf.shape[3:])

            mask = None if trajectory.action_mask is None else rows(trajectory.action_mask)
            output = policy.apply(params, Inputs(rows(trajectory.obs), mask))
            return Output(output.dist.map(lift), None if output.value is None else lift(output.value))

        outputs = [piece(first) for first in range(0, steps, length)]
        return outputs[0] if len(outputs) == 1 else map_leaves(lambda *leaves: torch.cat(leaves, 1), *outputs)

    return evaluate


def _are_images(obs: Tensor) -> bool:
    """Return whether observations `[S, T, N, *O]` are large arrays of bytes."""
    return obs.dtype == torch.uint8 and obs.shape[3:].numel() >= IMAGE_BYTES


class Estimator(NamedTuple):
    """The return estimator of a run, bound to its settings.

    `takes` are the names of its arguments, `tensors` those of its settings that are floats, as `[S, 1, 1]`, `settings`
    all others. `requires` are the names of the arguments without a default.
    """

    function: Callable[..., Any]
    takes: frozenset[str]
    settings: Mapping[str, Any]
    tensors: Params
    normalize_reward: bool
    requires: frozenset[str] = frozenset()

    def check_call(
        self, config: RunConfig, trajectory: Trajectory, evaluated: PolicyEvaluation | None, bonus: Tensor | None
    ) -> None:
        """Raise RunFailed if the algorithm's arguments of `ctx.estimate` lack what the estimator requires."""
        who = f'Algorithm "{config.algorithm}"'
        if bonus is not None and bonus.shape != trajectory.rewards.shape:
            expected = list(trajectory.rewards.shape)
            raise RunFailed(
                f"{who}: the bonus of ctx.estimate is {list(bonus.shape)}; it must be [S, T, N] as the rewards, "
                f"{expected}."
            )
        lacking = self.requires & (VALUES | {"log_rhos"}) if evaluated is None else frozenset()
        if evaluated is not None and evaluated.values is None:
            lacking = self.requires & VALUES
        if lacking and evaluated is None:
            raise RunFailed(
                f'{who} calls ctx.estimate without `evaluated`, but estimator "{config.estimator.name}" requires '
                f"{', '.join(sorted(lacking))}. Write evaluated = ctx.evaluate_policy(state, trajectory), and then "
                "ctx.estimate(state, trajectory, evaluated)."
            )
        if lacking:
            raise RunFailed(
                f'{who} calls ctx.estimate with `evaluated.values` None, but estimator "{config.estimator.name}" '
                f'requires {", ".join(sorted(lacking))}. Declare needs = {{"value"}}, or pass the '
                "values of the algorithm's own critic: evaluated._replace(values=values)."
            )

    def __call__(
        self,
        tensors: Params,
        buffers: Params,
        trajectory: Trajectory,
        evaluated: PolicyEvaluation | None,
        behavior: Tensor | None = None,
        bonus: Tensor | None = None,
    ) -> Targets:
        """Return advantages, returns and weights `[S, T, N]`; see `protocols.UpdateContext.estimate`."""
        available: dict[str, Any] = {name: getattr(trajectory, name) for name in FIELDS} | {**self.settings, **tensors}
        if self.normalize_reward:
            available["rewards"] = scale_rewards(buffers, trajectory.rewards)
        if trajectory.info is not None:
            available["info"] = trajectory.info
        if bonus is not None:
            available["rewards"] = available["rewards"] + bonus
        values = None
        if evaluated is not None:
            available["log_rhos"] = evaluated.log_probs - (evaluated.log_probs if behavior is None else behavior)
            if evaluated.values is not None:
                values = available["values"] = evaluated.values[:, :-1]
                available["next_values"] = evaluated.values[:, 1:]
        estimate = self.function(**{name: value for name, value in available.items() if name in self.takes})
        _check_estimate(estimate, trajectory.rewards)
        if isinstance(estimate, tuple):
            advantages, returns = estimate
        else:
            advantages = returns = estimate
            if values is not None:
                advantages = torch.where(trajectory.valid, returns - values, 0.0)
        return Targets(advantages, returns, trajectory.valid.float())


def _check_estimate(estimate: Any, rewards: Tensor) -> None:
    """Raise TypeError or ValueError if an estimator has returned something else than one or two tensors `[S, T, N]`."""
    parts = estimate if isinstance(estimate, tuple) else (estimate,)
    if len(parts) != (2 if isinstance(estimate, tuple) else 1) or not all(isinstance(part, Tensor) for part in parts):
        got = "None" if estimate is None else f"a {type(estimate).__name__}"
        if isinstance(estimate, tuple):
            got += f" of {', '.join(type(part).__name__ for part in parts)}"
        raise TypeError(f"an estimator returns a tensor [S, T, N] or two, (advantages, returns); got {got}")
    for part in parts:
        if part.shape != rewards.shape:
            raise ValueError(f"an estimate has the shape [S, T, N], here {list(rewards.shape)}; got {list(part.shape)}")


def evaluate_and_estimate(evaluator: Evaluator, estimator: Estimator) -> Callable[[EstimationInputs], Estimation]:
    """Return both as one function: compiled, it takes the time of the evaluation alone."""

    def both(inputs: EstimationInputs) -> Estimation:
        (params, trajectory), given = inputs
        evaluated = evaluator(inputs.evaluation)
        return Estimation(evaluated, estimator(given, params, trajectory, evaluated))

    return both


def requires_values(estimator: Callable[..., Any]) -> bool:
    """Return whether an estimator requires a critic: `values` or `next_values` has no default."""
    parameters = inspect.signature(estimator).parameters.values()
    return any(p.name in VALUES and p.default is p.empty for p in parameters)


def bind_estimator(plan: Plan, gamma: Tensor) -> Estimator:
    """Return the plan's estimator with its settings. Raises UnfitError if the run doesn't provide an argument."""
    c = plan.config
    name = f'Estimator "{c.estimator.name}"'
    settings = plan.settings_as_tensors(lambda config: dict(config.estimator.settings)) | {"gamma": gamma}
    known = {*FIELDS, "log_rhos", *settings} | (VALUES if plan.needs & VALUE_NEEDS else frozenset())
    known |= {"info"} if plan.info else set()
    parameters = inspect.signature(plan.estimator).parameters.values()
    asked = [p.name for p in parameters if p.default is p.empty and p.name not in known]
    if set(asked) & VALUES:
        why = "trains none" if isinstance(c.settings, AlgorithmConfig) else "takes no gradient steps to train one"
        raise UnfitError(
            f'{name} needs the values of a critic, but algorithm "{c.algorithm}" {why}. Choose an algorithm '
            "that does (pgzoo algorithms) or another estimator (pgzoo estimators)."
        )
    if asked:
        raise UnfitError(
            f"{name} requires the argument {', '.join(asked)}, which this run doesn't provide."
            f"{did_you_mean(asked[0], known)} Available: {', '.join(sorted(known))}."
        )
    if getattr(plan.estimator, "whole_episodes", False) and isinstance(plan.collection, Steps):
        raise UnfitError(
            f'{name} needs whole episodes, but algorithm "{c.algorithm}" collects windows of '
            f"{plan.collection.count} steps. Choose another estimator (pgzoo estimators)."
        )
    takes = frozenset(p.name for p in parameters)
    if "log_rhos" in takes and getattr(c.settings, "recompute_advantages", False):
        raise UnfitError(
            f"{name} includes in its advantages the ratio of the policy that learns to the one that acted, and "
            f'algorithm "{c.algorithm}" multiplies advantages by this ratio itself. Advantages that are estimated '
            "again after a gradient step would be wrong. Remove --recompute-advantages, or choose another estimator, "
            "such as gae (pgzoo estimators)."
        )
    return Estimator(
        function=plan.estimator,
        takes=takes,
        settings={name: value for name, value in settings.items() if not isinstance(value, Tensor)},
        tensors={name: value for name, value in settings.items() if isinstance(value, Tensor)},
        normalize_reward=c.normalize_reward,
        requires=frozenset(p.name for p in parameters if p.default is p.empty),
    )
