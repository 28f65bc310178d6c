"""Every check of an algorithm can fail: for each there is an algorithm with one fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from failing_checks import ALL_CHECKS, assert_fails, failing, named_by_faulty_plugins
from gymnasium.spaces import Box
from torch import Tensor

from pgzoo.config import AlgorithmConfig
from pgzoo.ops.losses import weighted_mean
from pgzoo.testing.checks import CHECKS
from pgzoo.types import Batch, Hyper, Loss, Params, Steps, TrainState, Trajectory


class Sound:
    """Minus the mean of log-probability times return. Source: none, it is made for these tests."""

    collect = Steps(8)
    estimator = "reward-to-go"
    defaults: ClassVar[Mapping[str, Any]] = {"num_envs": 4, "total_steps": 1000}

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory)

    def step(self, ctx: Any, state: TrainState, trajectory: Trajectory, **report: Tensor) -> TrainState:
        def loss(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss:
            dist = policy.apply(params, batch.inputs).dist
            value = -weighted_mean(dist.log_prob(batch.actions) * batch.advantages, batch.weights)
            return Loss(value, {"loss/policy": value.detach(), **report})

        targets = ctx.estimate(state, trajectory)
        return ctx.step(loss, state, ctx.batch(trajectory, targets))  # type: ignore[no-any-return]


class Undocumented(Sound):
    """Doesn't say where it comes from."""


class Mistyped(Sound):
    """Needs a critic, but misspells it. Source: none."""

    needs = ("valeu",)


class Returnless(Sound):
    """Forgets to return its loss. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        def loss(policy: Any, params: Params, batch: Batch, hyper: Hyper) -> None:
            weighted_mean(policy.apply(params, batch.inputs).dist.log_prob(batch.actions), batch.weights)

        return ctx.step(loss, state, ctx.batch(trajectory, ctx.estimate(state, trajectory)))  # type: ignore[no-any-return]


class SilentConfig(AlgorithmConfig):
    loud: int = 1


def late(state: TrainState) -> bool:
    """Return whether more than 20% of a run is done: only in whole runs, as other checks make few of 100,000 steps."""
    return bool(state.progress.max() > 0.2)


def in_box(ctx: Any) -> bool:
    return isinstance(ctx.plan.spec.action_space, Box)


class Raises(Sound):
    """Raises late in a run. Source: none."""

    boxes = False

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        if late(state) and in_box(ctx) == self.boxes and trajectory.memory is None:
            raise ZeroDivisionError("late")
        return super().update(ctx, state, trajectory)


class RaisesForBoxes(Raises):
    """Raises late in a run with Box actions. Source: none."""

    boxes = True


class Forgetful(Sound):
    """Raises if the policy is recurrent. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        if trajectory.memory is not None:
            raise RuntimeError("what is this?")
        return super().update(ctx, state, trajectory)


class Lazy(Sound):
    """Learns nothing. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return state


class Modest(Sound):
    """Learns, but declares that it doesn't. Source: none."""

    learns = False


class Misnamed(Sound):
    """Reports a metric whose name has no group. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory, loss=torch.zeros(len(state.active)))


class Infinite(Sound):
    """Reports infinity. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory, **{"loss/odd": torch.full((len(state.active),), torch.inf)})


class Loud(Sound):
    """Reports a metric in a group of pgzoo's own. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return self.step(ctx, state, trajectory, **{"time/odd": torch.zeros(len(state.active))})


class Stubborn(Sound):
    """Uses one gamma for all members of a sweep. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return super().update(ctx, state, trajectory._replace(rewards=trajectory.rewards * ctx.plan.config.gamma))


class Mourner(Sound):
    """Stops learning once any member has stopped. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return super().update(ctx, state, trajectory) if state.active.all() else state


class Shy(Sound):
    """Stops learning once it has been evaluated. Source: none."""

    def update(self, ctx: Any, state: TrainState, trajectory: Trajectory) -> TrainState:
        return state if ctx.watch.seconds["evaluate"] else super().update(ctx, state, trajectory)


ALGORITHMS: list[tuple[type, dict[str, Any], str, str]] = [
    (Undocumented, {}, "documented", "doesn't name its source"),
    (Sound, {"config": SilentConfig}, "settings", "without a description: loud"),
    (Mistyped, {}, "settings", 'Did you mean "value"?'),
    (Returnless, {}, "loss-shape", "has a loss function that returns None. Let it return a tensor [S]"),
    (Raises, {}, "trains-discrete", "ZeroDivisionError: late"),
    (RaisesForBoxes, {}, "trains-box", "ZeroDivisionError: late"),
    (Forgetful, {}, "trains-memory", "what is this?"),
    (Lazy, {}, "learns", "policy.weight.0"),
    (Modest, {}, "learns", "Remove `learns = False`"),
    (Misnamed, {}, "metrics", 'reports "loss"'),
    (Infinite, {}, "metrics", "reports loss/odd = "),
    (Loud, {}, "metrics", 'reports "time/odd", in a group that pgzoo logs itself'),
    (Stubborn, {}, "sweep", "trains a seed differently in a sweep, with learning_rate=0.0009"),
    (Mourner, {}, "frozen", "trains seeds differently"),
    (Shy, {}, "evaluation-has-no-effect", "trains differently when it is evaluated"),
]


class Endless(Sound):
    """Has a loop without `yield`. Source: none."""

    def loop(self, ctx: Any) -> None:
        while ctx.running():
            state, trajectory = ctx.collect(ctx.state)
            ctx.state = self.update(ctx, state, trajectory)


def test_an_algorithm_whose_loop_never_yields_fails_the_checks_of_training_instead_of_hanging() -> None:
    failed = failing("algorithm", Endless)
    assert list(failed) == ["trains-discrete", "trains-box"]
    assert all("loop must be a generator. Write `yield` at the end of each iteration" in x for x in failed.values())


class Naming(Sound):
    """Collects with named arguments. Source: none."""

    def loop(self, ctx: Any) -> Iterator[None]:
        while ctx.running():
            state, trajectory = ctx.collect(state=ctx.state, noise=None)
            ctx.state = self.update(ctx, state, trajectory)
            yield


def test_an_algorithm_may_collect_with_named_arguments() -> None:
    assert failing("algorithm", Naming) == {}


def test_a_correct_algorithm_passes_all_checks() -> None:
    assert failing("algorithm", Sound) == {}


@ALL_CHECKS
@pytest.mark.parametrize(
    ("target", "facts", "check", "said"),
    [pytest.param(*a, marks=[pytest.mark.slow] if a[0] in (Misnamed, Modest, Loud) else []) for a in ALGORITHMS],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_an_algorithm_with_one_fault_fails_only_the_check_for_it(
    all_checks: bool, target: type, facts: dict[str, Any], check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rounds", "recording"):  # one of them never learns, and would be updated until the limit
        monkeypatch.setattr(f"pgzoo.testing.{module}.WARM_UP", 5)
    only = None if all_checks else check
    assert_fails(failing("algorithm", target, only, **facts), check, said, 'Algorithm "broken"')


def test_every_check_of_an_algorithm_has_one_that_fails_it() -> None:
    assert {check for _, _, check, _ in ALGORITHMS} | named_by_faulty_plugins("algorithm") == set(CHECKS["algorithm"])
