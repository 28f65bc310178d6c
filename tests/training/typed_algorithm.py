"""A third-party algorithm for mypy: `make check` checks it against the types that pgzoo publishes.

Incorrect uses have an ignore comment. With `--strict`, mypy rejects a comment that ignores nothing, so `make check`
also fails if pgzoo's types no longer reject one of these uses.
"""

from __future__ import annotations

from collections.abc import Iterator

from pgzoo import Batch, Hyper
from pgzoo.protocols import LearningPolicy, UpdateContext
from pgzoo.training.engine import Engine
from pgzoo.types import Episodes, Loss, Params, TrainState, Trajectory


class Halves:
    """A plain policy gradient that uses each batch twice."""

    collect, estimator = Episodes(per_env=1), "reward-to-go"

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        targets = ctx.estimate(state, trajectory)
        for batch in ctx.minibatches(state, trajectory, targets, epochs=range(2)):
            state = ctx.step(self.loss, state, batch)
        ctx.report({"halves/rate": ctx.learning_rate(state)})
        return state

    def loop(self, ctx: UpdateContext) -> Iterator[None]:
        while ctx.running():
            ctx.state = self.update(ctx, *ctx.collect(ctx.state))
            yield

    def loss(self, policy: LearningPolicy, params: Params, batch: Batch, hyper: Hyper) -> Loss:
        dist = policy.apply(params, batch.inputs).dist
        return Loss((-dist.log_prob(batch.actions) * batch.advantages * batch.weights).sum((-2, -1)), {})


def context_of(engine: Engine) -> UpdateContext:
    """Return the engine: mypy checks that it is an `UpdateContext`."""
    return engine


def wrong(ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> None:
    """Mistakes that a type checker reports."""
    ctx.stepp  # type: ignore[attr-defined]  # noqa: B018
    ctx.estimate(trajectory, state)  # type: ignore[arg-type]
    ctx.collect()  # type: ignore[call-arg]
