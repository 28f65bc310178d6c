"""Apply the pure step of `training.gradient_step`, eagerly or compiled, to a `TrainState`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgzoo.config import AlgorithmConfig
from pgzoo.ops.members import freeze, map_leaves, surely_empty, to_device
from pgzoo.ops.optim import NO_OPTIMIZER, Views, flatten, make_optimizer, unflatten
from pgzoo.training import added_critic
from pgzoo.training.compiled_steps import take_steps
from pgzoo.training.compiling import Compiled, own_copy
from pgzoo.training.gradient_step import (
    GradientStep,
    GradientStepResult,
    MakeBatch,
    StepInput,
    UpdateInput,
    make_batch,
    make_gradient_step,
    make_whole_update,
    stack_metrics,
)
from pgzoo.training.hyperparameters import Hyperparameters
from pgzoo.training.metrics import Stopwatch
from pgzoo.training.plan import Plan, PolicyView
from pgzoo.training.targets import Estimator, Evaluator
from pgzoo.training.update_record import UpdateRecord
from pgzoo.types import Batch, LossFunction, Params, TrainState, Trajectory

__all__ = ["Learner"]

KEPT = "vector", "optimizer", "counted", "halted", "metrics"
"""What outlives a step."""

MANY_LOSSES = 8
"""Maximum number of compiled losses; with more, the loss is probably a new function in every call."""


class Learner:
    """Updates the parameters of a train state; adds metrics and failures to the record of the update.

    Members that are not active or were halted in an earlier step of the update take no step.
    """

    def __init__(
        self,
        plan: Plan,
        policy: PolicyView,
        hyperparameters: Hyperparameters,
        watch: Stopwatch,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compiling a step is given up when `cancelled()` turns True."""
        settings: Any = plan.config.settings
        by_gradient = isinstance(settings, AlgorithmConfig)
        self.optimizer = make_optimizer(settings.optimizer, settings.optimizer_eps) if by_gradient else NO_OPTIMIZER
        self.device = torch.device(plan.config.device)
        self.compiled = plan.config.compile == "on"
        self.padded = self.device.type == "cpu" and not self.compiled
        self._plan, self._policy, self._hyperparameters, self._watch = plan, policy, hyperparameters, watch
        self._cancelled = cancelled
        self._steps: dict[tuple[LossFunction, str | tuple[str, ...], tuple[str, ...]], GradientStep] = {}
        self._updates: dict[LossFunction, Callable[[UpdateInput], GradientStepResult]] = {}
        self._flat: tuple[Params, Tensor] = {}, torch.empty(0)  # the parameters of the last step, and their vector
        self._views: Views | None = None

    def compile(self, function: Callable[[Any], Any], *, one_piece: bool = False) -> Callable[[Any], Any]:
        """Return the function compiled, if this run compiles. See `Compiled` for `one_piece`."""
        if not self.compiled:
            return function
        return Compiled(function, self._watch, self._plan.compile_cache, self._cancelled, one_piece=one_piece)

    def step(
        self,
        record: UpdateRecord,
        loss: LossFunction,
        state: TrainState,
        batch: Batch,
        only: str | tuple[str, ...],
        learning_rates: Mapping[str, Tensor],
    ) -> TrainState:
        """Take one gradient step; see `protocols.UpdateContext.step`."""
        stepping = self._stepping(state)
        if self._nobody_steps(state, stepping):
            return state
        step = self._step_for(loss, only, learning_rates, state.params)
        result = step(self._input(state, batch, stepping)._replace(learning_rates=dict(learning_rates)))
        if isinstance(step, Compiled):
            result = result._replace(**{name: map_leaves(own_copy, getattr(result, name)) for name in KEPT})
        return self._apply(record, state, result, lambda: batch)

    def steps(
        self,
        record: UpdateRecord,
        loss: LossFunction,
        state: TrainState,
        batches: Iterable[Batch],
        only: str | tuple[str, ...],
        learning_rates: Mapping[str, Tensor],
    ) -> TrainState:
        """Take gradient steps on batches; see `protocols.UpdateContext.steps`."""
        step = self._step_for(loss, only, learning_rates, state.params)
        if not isinstance(step, Compiled) or self.device.type != "cpu":
            for batch in batches:
                state = self.step(record, loss, state, batch, only, learning_rates)
            return state
        stepping = self._stepping(state)
        if self._nobody_steps(state, stepping):
            return state
        start = self._input(state, None, stepping)._replace(learning_rates=dict(learning_rates))
        result = take_steps(step, start, batches, record, state.params)
        if result is None:
            return state
        halted = stepping & ~result.stepping
        return state._replace(
            params=self._keep(result.vector, state.params),
            optimizer=result.optimizer,
            halted=halted if state.halted is None else state.halted | halted,
        )

    def whole_update(
        self,
        record: UpdateRecord,
        loss: LossFunction,
        state: TrainState,
        trajectory: Trajectory,
        evaluator: Evaluator | None,
        estimator: Estimator,
        cut: MakeBatch,
    ) -> TrainState:
        """Evaluate the policy, estimate, make one batch and take one step on it, as one compiled function."""
        stepping = self._stepping(state)
        if self._nobody_steps(state, stepping):
            return state
        update = self._updates.get(loss)
        if update is None:
            step = self._new_step(loss, "", state.params)
            whole = make_whole_update(evaluator, estimator, cut, step, state.params)
            update = self.compile(whole, one_piece=True)  # which is small, as the rollout is short
            self._updates[loss] = update
        result = update(UpdateInput(self._input(state, None, stepping), trajectory, estimator.tensors))

        def batch() -> Batch:  # only needed to find the cause of a failure
            params, buffers = state.params, state.buffers
            return make_batch(evaluator, estimator, cut, params, buffers, trajectory, estimator.tensors)

        return self._apply(record, state, result, batch)

    def move(
        self,
        record: UpdateRecord,
        state: TrainState,
        vector: Tensor,
        batch: Batch,
        value: Tensor,
        gradient: Tensor,
        metrics: Mapping[str, Tensor],
    ) -> TrainState:
        """Set the parameters to `vector [S, P]`; see `protocols.UpdateContext.move`."""
        if self._plan.added_critic:
            raise added_critic.move_without_critic_error(self._plan.config.algorithm, self._plan.config.estimator.name)
        norm = gradient.square().sum(1)
        reach = vector.abs().amax(1) if vector.shape[1] else norm
        finite = torch.isfinite(value) & torch.isfinite(norm) & torch.isfinite(reach)
        stepping = self._stepping(state)
        record.metrics.add(tuple(metrics), stack_metrics(metrics), stepping)
        record.add_failed_step(stepping & ~finite, lambda: batch, state.params, value, gradient, norm, vector)
        vector = torch.where((stepping & finite).unsqueeze(1), vector, flatten(state.params.values()))
        return state._replace(params=unflatten(vector, state.params))

    def place(self, record: UpdateRecord, state: TrainState, vector: Tensor) -> TrainState:
        """Set the parameters of active members to `vector [S, P]`; see `protocols.UpdateContext.place`."""
        expected = [len(state.active), sum(leaf[0].numel() for leaf in state.params.values())]
        if list(vector.shape) != expected:
            raise ValueError(f"ctx.place: the vector must be [S, P], here {expected}; got {list(vector.shape)}")
        params = unflatten(vector, state.params)
        moving = state.active.copy()
        for row in np.flatnonzero(moving):
            bad = next((name for name, value in params.items() if not torch.isfinite(value[row]).all()), None)
            if bad is not None:
                record.add_failure(int(row), f"parameter {bad}: not finite")
                moving[row] = False
        return state._replace(params=freeze(moving, to_device(params, self.device), state.params))

    def _stepping(self, state: TrainState) -> Tensor:
        """Return which members take a step from `state`, `[S]` bool."""
        active = to_device(torch.from_numpy(state.active), self.device)
        return active if state.halted is None else active & ~state.halted

    def _nobody_steps(self, state: TrainState, stepping: Tensor) -> bool:
        """Return True if surely no member takes a step: none is in `stepping`, or there are no parameters."""
        if not state.params:
            return True
        # without halted members, the array tells: an operation on a tensor takes longer
        return not state.active.any() if state.halted is None else surely_empty(stepping)

    def _new_step(self, loss: LossFunction, only: str | tuple[str, ...], like: Params) -> GradientStep:
        settings = self._hyperparameters.others
        also = added_critic.critic_prefix(only) if self._plan.added_critic else None
        if also is not None:
            loss = added_critic.with_critic_loss(loss)
        return make_gradient_step(
            loss, self._policy, like, settings, self.optimizer, only, also=also, padded=self.padded
        )

    def _step_for(
        self, loss: LossFunction, only: str | tuple[str, ...], learning_rates: Mapping[str, Tensor], like: Params
    ) -> GradientStep:
        """Return the step on a loss, compiled if this run compiles."""
        key = loss, only, tuple(learning_rates)
        step = self._steps.get(key)
        if step is None:
            _check_rates(learning_rates, like)
            step = self._new_step(loss, only, like)
            if self.compiled and len(self._steps) < MANY_LOSSES:
                step = self._steps[key] = self.compile(step, one_piece=True)
        return step

    def made(self, params: Params) -> bool:
        """Return whether these are the parameters that the last step returned."""
        return params is self._flat[0]

    def canonical(self, params: Params) -> Params:
        """Return the parameters as a compiled function takes them: as views of one vector per member.

        Compiled code is specific to the strides of its inputs. Without this, it would be compiled again for parameters
        that come from a checkpoint or from `init`.
        """
        if not self.compiled or self._flat[0] is params:
            return params
        return self._keep(flatten(params.values()), params) if params else params

    def _keep(self, vector: Tensor, like: Params) -> Params:
        """Return `vector [S, P]` as parameters, and remember that they are those of this vector."""
        if self._views is None or not self._views.fit(vector):
            self._views = Views.of(vector, like)
        self._flat = self._views(vector), vector
        return self._flat[0]

    def _input(self, state: TrainState, batch: Batch | None, stepping: Tensor) -> StepInput:
        known, vector = self._flat
        if known is not state.params:  # this state doesn't come from the last step
            vector = flatten(state.params.values())
        tensors, rate = self._hyperparameters.tensors_at(state), self._hyperparameters.learning_rate(state)
        return StepInput(vector, state.optimizer, state.buffers, batch, tensors, rate, {}, stepping)

    def _apply(
        self, record: UpdateRecord, state: TrainState, result: GradientStepResult, batch: Callable[[], Batch]
    ) -> TrainState:
        """Return the state after a step, and record its metrics and failures."""
        halted = state.halted
        if result.halted is not None:
            halted = result.halted if halted is None else halted | result.halted
        record.metrics.add(result.names, result.metrics, result.counted)
        tensors = result.value, result.gradient, result.norm, result.reached
        record.add_failed_step(result.failed, batch, state.params, *tensors)
        params = self._keep(result.vector, state.params)
        return state._replace(params=params, optimizer=result.optimizer, halted=halted)


def _check_rates(learning_rates: Mapping[str, Tensor], params: Params) -> None:
    """Raise TypeError or ValueError if a learning rate isn't a tensor `[S]`, or belongs to no parameter."""
    members = len(next(iter(params.values()))) if params else 0
    for prefix, rate in learning_rates.items():
        if not isinstance(rate, Tensor) or tuple(rate.shape) != (members,):
            got = list(rate.shape) if isinstance(rate, Tensor) else f"a {type(rate).__name__}"
            raise TypeError(f'learning_rates["{prefix}"] must be a tensor [S], here [{members}]; got {got}')
        if not any(name.startswith(prefix) for name in params):
            raise ValueError(
                f'learning_rates["{prefix}"]: no parameter has a name that starts so. There are: {", ".join(params)}'
            )
