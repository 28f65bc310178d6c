"""A critic for an algorithm that trains none, added because the run's estimator requires values.

The policy is then created with a value output, and every gradient step on the policy adds the critic's loss to the
algorithm's. The gradient of the critic's loss is 0 except for parameters whose names start with `critic.`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pgzoo.config import AlgorithmConfig, Settings
from pgzoo.errors import UnfitError
from pgzoo.ops.losses import explained_variance, value_loss
from pgzoo.training.plan import CRITIC, POLICY
from pgzoo.training.targets import VALUE_NEEDS, requires_values
from pgzoo.types import Batch, Hyper, Loss, LossFunction, Params

__all__ = ["VALUE_COEF", "critic_prefix", "is_added", "move_without_critic_error", "with_critic_loss"]

VALUE_COEF = 0.5
"""Weight of the added critic's loss if the algorithm has no setting `value_coef`."""


def is_added(estimator: Callable[..., Any], needs: frozenset[str], settings: Settings) -> bool:
    """Return whether a run gets a critic that its algorithm, with these `needs` and `settings`, doesn't ask for.

    An algorithm without gradient steps can't train one.
    """
    return requires_values(estimator) and not needs & VALUE_NEEDS and isinstance(settings, AlgorithmConfig)


def with_critic_loss(loss: LossFunction) -> LossFunction:
    """Return `loss` plus the critic's loss, for gradient steps.

        L + c ½ E[(V(s) - G)²]

    c is the setting `value_coef` if the algorithm has it, else `VALUE_COEF`. The gradient of the second term is 0 for
    all parameters except those under `critic.`, so the gradient of the policy is the same as without the critic. The
    metrics `loss/value` and `value/explained_variance` are added to those of `loss`.
    """

    def total(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss | Tensor:
        found = loss(policy, params, batch, hyper)
        result = found if isinstance(found, Loss) else Loss(found, {})
        critic = {name: leaf if name.startswith(CRITIC) else leaf.detach() for name, leaf in params.items()}
        values = policy.apply(critic, batch.inputs).value
        error = value_loss(values, batch.returns, batch.weights)
        if result.value.shape != error.shape:
            return result  # the engine raises an error that shows both shapes
        coef = getattr(hyper, "value_coef", None)
        before = values.detach() if batch.values is None else batch.values
        metrics = {
            "loss/value": error,
            "value/explained_variance": explained_variance(before, batch.returns, batch.weights),
        }
        weighted = (VALUE_COEF if coef is None else coef.flatten()) * error
        return result._replace(value=result.value + weighted, metrics=metrics | result.metrics)

    return total


def critic_prefix(only: str | tuple[str, ...]) -> str | None:
    """Return the prefix of the critic's parameters if the added critic learns in a step limited to `only`, else None.

    It learns in steps on all parameters and in steps on the policy, not in steps on an algorithm's other networks.
    """
    prefixes = (only,) if isinstance(only, str) else only
    return CRITIC if not only or any(prefix.startswith(POLICY) for prefix in prefixes) else None


def move_without_critic_error(algorithm: str, estimator: str) -> UnfitError:
    """Return the error for an algorithm that updates the policy by `ctx.move`, which trains no added critic."""
    return UnfitError(
        f'Estimator "{estimator}" needs the values of a critic, but algorithm "{algorithm}" updates its parameters by '
        'ctx.move, which trains no added critic. The algorithm must declare needs = {"value"} and train the critic '
        "with ctx.step on ops.losses.critic_loss."
    )
