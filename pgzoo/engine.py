"""The engine: what an algorithm is given to learn with."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo import rollout
from pgzoo.config import RunConfig
from pgzoo.errors import RunFailed, UnfitError
from pgzoo.events import EvaluationMode
from pgzoo.ops.members import freeze, join, map_leaves
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.ops.optim import OPTIMIZERS, clip_by_member_norm, flatten, unflatten
from pgzoo.protocols import Algorithm, EnvBackend, EnvRequest, Policy, VectorEnv
from pgzoo.rollout import Finished, Greedy, Noise
from pgzoo.seeding import EVALUATION_ROOT, generator, reset_seeds
from pgzoo.types import (
    Batch,
    Collection,
    Episodes,
    Hyper,
    Inputs,
    Loss,
    Metrics,
    Output,
    Params,
    Spec,
    Targets,
    TrainState,
    Trajectory,
)

__all__ = ["Engine", "Plan", "default_update"]

PREFIX = "policy."
"""Under which the policy's parameters lie among all of a member's."""

NO_LIMIT = np.iinfo(np.int64).max

GROUP_ROWS = 4096
"""Rows that are differentiated at once: with 64 hidden units, a megabyte for each intermediate result."""


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, as plain objects: resolved once, by `runner.make_plan` or by hand."""

    config: RunConfig
    spec: Spec
    algorithm: Algorithm
    policy: Policy
    estimator: Callable[..., Any]
    collection: Collection
    backend: EnvBackend
    group: str
    run_keys: tuple[str, ...]

    def request(self, envs_per_member: int) -> EnvRequest:
        """What to ask the backend for."""
        c = self.config
        return EnvRequest(c.env, c.env_kwargs, c.max_episode_steps, len(c.seeds) * envs_per_member)

    def policy_params(self, params: Params) -> Params:
        """The policy's own among all parameters, under its own names."""
        return {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}


class Stopwatch:
    """Charges wall time to phases; a phase inside another is not charged to the outer one."""

    def __init__(self, *phases: str) -> None:
        self.seconds = dict.fromkeys(phases, 0.0)
        self._current = ""
        self._since = 0.0

    @contextmanager
    def phase(self, name: str, who: str = "") -> Iterator[None]:
        """Time a phase. Where `who` is given, an exception becomes RunFailed and says whose code was running."""
        outer = self._switch(name)
        try:
            yield
        except (RunFailed, rollout.Cancelled):
            raise
        except Exception as error:
            if not who:
                raise
            raise RunFailed(f"{who} raised {type(error).__name__}: {error}") from error
        finally:
            self._switch(outer)

    def _switch(self, name: str) -> str:
        now = time.perf_counter()
        if self._current:
            self.seconds[self._current] += now - self._since
        outer, self._current, self._since = self._current, name, now
        return outer


class PolicyView:
    """The policy as a loss sees it: it finds its own parameters among all of them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch with the policy's part of `params`."""
        return self._plan.policy.apply(self._plan.policy_params(params), inputs)


class Engine:
    """What an algorithm is given (`ctx`): it collects, estimates, makes batches and takes gradient steps.

    Every method works on all members at once and moves none but the active ones.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.policy = PolicyView(plan)
        self.metrics: dict[str, Tensor] = {}
        """What the current update reports, `[S]` each."""
        self.failures: dict[int, str] = {}
        """Members that turned non-finite, with the first bad tensor."""
        self.cancelled: Callable[[], bool] = lambda: False
        """Asked at every step of an environment; true ends the collection or evaluation that is under way."""
        self.watch = Stopwatch("collect", "estimate", "update", "track", "compile", "evaluate")
        self._seeds = plan.config.seeds
        self._envs: VectorEnv | None = None
        self._evaluation_envs: VectorEnv | None = None
        self._optimizer = OPTIMIZERS[plan.config.settings.optimizer]
        self._hyper = self._expand(dict(plan.config.settings) | {"gamma": plan.config.gamma})
        self._estimator_takes, self._estimator_extra = self._bind_estimator()

    # the pieces of an update, in the order in which they are used

    def init(self) -> TrainState:
        """Return the state before the first update; each member's from its own stream."""
        members = [self.plan.policy.init(generator(seed, "init")) for seed in self._seeds]
        params = {PREFIX + name: torch.stack([m[name] for m in members]) for name in members[0]}
        zeros = np.zeros(len(self._seeds), np.int64)
        return TrainState(
            params=params,
            optimizer=self._optimizer.init(flatten(params.values())),
            collector=None,
            active=np.ones(len(self._seeds), np.bool_),
            env_steps=zeros,
            episodes=zeros,
            updates=zeros,
            progress=np.zeros(len(self._seeds)),
        )

    def collect(self, state: TrainState) -> tuple[TrainState, Trajectory, Finished]:
        """Let the policy act; count valid steps and finished episodes of the active members. Raises Cancelled."""
        plan, num_envs = self.plan, self.plan.config.num_envs
        state = state._replace(progress=self._progress(state))
        with self.watch.phase("collect", f'environment "{plan.config.env}" or policy "{plan.config.policy.name}"'):
            if self._envs is None:
                self._envs = plan.backend.open(plan.request(num_envs))
            kind = plan.collection
            episodes, window = (kind.per_env, None) if isinstance(kind, Episodes) else (NO_LIMIT, kind.count)
            at = None if window is None else state.collector
            if at is None:
                at = rollout.begin(self._envs, self._resets(state))
            quota = np.where(state.active, episodes, 0)
            trajectory, finished, collector = rollout.collect(
                self._envs,
                plan.policy,
                plan.policy_params(state.params),
                Noise(plan.policy, [self.rng("act", s, state) for s in range(len(self._seeds))], num_envs),
                at,
                np.broadcast_to(quota[:, None], at.ended.shape),
                window,
                self.cancelled,
            )
        state = state._replace(
            collector=None if window is None else freeze(state.active, collector, at),
            env_steps=state.env_steps + trajectory.valid.sum((-2, -1)).numpy(),
            episodes=state.episodes + np.array([len(r) for r in finished.returns], np.int64),
        )
        return state, trajectory, finished

    def estimate(self, trajectory: Trajectory) -> Targets:
        """Let the estimator turn rewards into advantages and returns, `[S, T, N]`."""
        available = trajectory._asdict() | self._estimator_extra
        with self.watch.phase("estimate", f'estimator "{self.plan.config.estimator.name}"'):
            estimate = self.plan.estimator(**{name: available[name] for name in self._estimator_takes})
        advantages, returns = estimate if isinstance(estimate, tuple) else (estimate, estimate)
        return Targets(advantages, returns, trajectory.valid.float())

    def batch(self, trajectory: Trajectory, targets: Targets) -> Batch:
        """Put each member's valid rows side by side, `[S, 1, B]`, padded with rows of weight 0."""
        valid = trajectory.valid.numpy()
        steps, num_envs = valid.shape[-2:]
        chosen = [np.flatnonzero(member) for member in valid]
        longest = max(1, *(len(rows) for rows in chosen))
        index = np.zeros((len(chosen), -(-longest // ROW_BLOCK) * ROW_BLOCK), np.int64)
        weights = np.zeros(index.shape, np.float32)
        for row, rows in enumerate(chosen):
            index[row, : len(rows)], weights[row, : len(rows)] = rows, 1.0
        # rows lie in memory by time, then member, then environment
        member = np.arange(len(chosen))[:, None]
        flat = torch.from_numpy((index // num_envs * len(chosen) + member) * num_envs + index % num_envs).flatten()

        def cut(leaf: Tensor) -> Tensor:
            by_time = leaf[:, :steps].transpose(0, 1)
            rest = leaf.shape[3:]
            return by_time.reshape(-1, *rest).index_select(0, flat).reshape(len(chosen), 1, -1, *rest)

        advantages = cut(targets.advantages)
        return Batch(
            inputs=Inputs(obs=cut(trajectory.obs)),
            actions=cut(trajectory.actions),
            timestep=cut(trajectory.timestep),
            advantages=advantages,
            returns=advantages if targets.returns is targets.advantages else cut(targets.returns),
            weights=torch.from_numpy(weights).unsqueeze(1),
        )

    def gradient(
        self, loss: Callable[..., Loss | Tensor], params: Params, batch: Batch
    ) -> tuple[Tensor, Metrics, Tensor]:
        """Differentiate `loss`: its value `[S]`, what it reports, and each member's gradient end to end, `[S, P]`.

        Members are taken in groups whose intermediate results stay in the processor's cache, each with no more
        padding than its own longest member needs. As members don't depend on each other, neither do the numbers.
        """
        parts = []
        groups = _groups(batch.weights)
        for rows, columns in groups:
            part, hyper = batch, self._hyper
            if len(groups) > 1:
                part, hyper = (
                    map_leaves(itemgetter((rows, slice(None), slice(columns))), batch),
                    Hyper.rows(hyper, rows),
                )
            leaves = {name: value[rows].detach().requires_grad_() for name, value in params.items()}
            result = loss(self.policy, leaves, part, hyper)
            value, metrics = result if isinstance(result, Loss) else (result, {})
            if value.shape != part.weights.shape[:1]:
                expected, got = list(part.weights.shape[:1]), list(value.shape)
                raise ValueError(f"a loss is one number per member, shape {expected}; got {got}")
            for name, metric in metrics.items():
                if metric.shape != value.shape:
                    raise ValueError(f"metric {name} is one number per member, as the loss; got {list(metric.shape)}")
            gradients = torch.autograd.grad(value.sum(), list(leaves.values()), materialize_grads=True)
            parts.append((value.detach(), map_leaves(Tensor.detach, metrics), flatten(gradients)))
        values, reports, gradient = zip(*parts, strict=True)
        return torch.cat(values), join(reports), torch.cat(gradient)

    def step(self, loss: Callable[..., Loss | Tensor], state: TrainState, batch: Batch) -> TrainState:
        """Take one gradient step on `loss`: clipped per member, frozen where a member is not active or not finite."""
        value, metrics, gradient = self.gradient(loss, state.params, batch)
        max_norm = self._hyper.max_grad_norm
        with torch.no_grad():
            clipped, norm = clip_by_member_norm(gradient, None if max_norm is None else max_norm.reshape(-1))
            vector, optimizer = self._optimizer.step(
                flatten(state.params.values()), clipped, state.optimizer, self.learning_rate(state)
            )
            finite = torch.isfinite(value) & torch.isfinite(norm) & torch.isfinite(vector.abs().amax(1))
            params = unflatten(vector, state.params)
        self.metrics |= {"loss/total": value, **metrics, "optim/grad_norm": norm}
        moved = state.active & finite.numpy()
        for row in np.flatnonzero(state.active & ~finite.numpy()):
            gradients = unflatten(gradient, state.params)
            self.failures[int(row)] = _first_bad(int(row), batch, state.params, value, gradients, norm, params)
        return state._replace(
            params=freeze(moved, params, state.params), optimizer=freeze(moved, optimizer, state.optimizer)
        )

    def learning_rate(self, state: TrainState) -> Tensor:
        """The step size `[S]` under the schedule, by how much of its run each member has done."""
        base: Tensor = self._hyper.learning_rate.reshape(-1)
        if self.plan.config.settings.learning_rate_schedule == "constant":
            return base
        return base * torch.from_numpy(1.0 - state.progress).float()

    def rng(self, stream: str, member: int, state: TrainState) -> np.random.Generator:
        """A generator of its own for this stream, member and update."""
        return generator(self._seeds[member], stream, int(state.updates[member]))

    def evaluate(self, state: TrainState, active: NDArray[np.bool_], mode: EvaluationMode) -> Finished:
        """Play the evaluation episodes of the active members on environments of their own.

        Episode k starts in the same state for every member and algorithm; actions come from the member's own stream.
        Every environment plays the same number of episodes or one less, so that short ones are not over-sampled: where
        it is cancelled, the rounds that are complete count.
        """
        c, plan, members = self.plan.config, self.plan, len(self._seeds)
        count = min(plan.backend.width, c.eval_episodes)
        starts = reset_seeds(EVALUATION_ROOT, "evaluate", c.eval_episodes)
        rounds: list[Finished] = []
        with self.watch.phase("evaluate", f'environment "{c.env}"'):
            if self._evaluation_envs is None:
                self._evaluation_envs = plan.backend.open(plan.request(count))
            params = plan.policy_params(state.params)
            for k in range(0, c.eval_episodes, count):
                seeds = np.resize(starts[k : k + count], count)  # what fills up a shorter last round is not played
                quota = active[:, None] & (k + np.arange(count) < c.eval_episodes)
                at = rollout.begin(self._evaluation_envs, np.tile(seeds, (members, 1)))
                generators = [generator(seed, "evaluate", k) for seed in self._seeds]
                noise = Greedy() if mode == "greedy" else Noise(plan.policy, generators, count)
                try:
                    _, finished, _ = rollout.collect(
                        self._evaluation_envs,
                        plan.policy,
                        params,
                        noise,
                        at,
                        quota.astype(np.int64),
                        None,
                        self.cancelled,
                    )
                except rollout.Cancelled:
                    break
                rounds.append(finished)
        return Finished(
            tuple(np.concatenate([np.zeros(0), *(r.returns[s] for r in rounds)]) for s in range(members)),
            tuple(np.concatenate([np.zeros(0, np.int64), *(r.lengths[s] for r in rounds)]) for s in range(members)),
        )

    def close(self) -> None:
        """Close the environments."""
        for envs in (self._envs, self._evaluation_envs):
            if envs is not None:
                envs.close()

    def _progress(self, state: TrainState) -> NDArray[np.float64]:
        c, done = self.plan.config, np.zeros(len(self._seeds))
        if c.total_steps is not None:
            done = np.maximum(done, state.env_steps / c.total_steps)
        if c.total_episodes is not None:
            done = np.maximum(done, state.episodes / c.total_episodes)
        return np.minimum(done, 1.0)

    def _resets(self, state: TrainState) -> NDArray[np.int64]:
        n = self.plan.config.num_envs
        pairs = zip(self._seeds, state.updates, strict=True)
        return np.stack([reset_seeds(seed, "reset", n, int(update)) for seed, update in pairs])

    def _expand(self, settings: Mapping[str, Any]) -> Hyper:
        ones = torch.ones(len(self._seeds), 1, 1)
        return Hyper({k: ones * v if isinstance(v, float) else v for k, v in settings.items()})

    def _bind_estimator(self) -> tuple[list[str], dict[str, Any]]:
        name = self.plan.config.estimator.name
        extra = vars(self._expand(dict(self.plan.config.estimator.settings))) | {"gamma": self._hyper.gamma}
        known = {*Trajectory._fields, *extra}
        takes = list(inspect.signature(self.plan.estimator).parameters)
        unknown = [parameter for parameter in takes if parameter not in known]
        if unknown:
            raise UnfitError(
                f'Estimator "{name}" asks for {", ".join(unknown)}, which no policy of this run gives. '
                f"There are: {', '.join(sorted(known))}."
            )
        return takes, extra


def default_update(ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
    """What an algorithm that gives only a loss gets: one gradient step on the whole batch."""
    return ctx.step(ctx.plan.algorithm.loss, state, ctx.batch(trajectory, ctx.estimate(trajectory)))


def _groups(weights: Tensor) -> list[tuple[slice, int]]:
    """Cut the members into groups of about `GROUP_ROWS` rows; each comes with the columns it needs of `[S, T, B]`."""
    if weights.numel() <= GROUP_ROWS:
        return [(slice(None), weights.shape[-1])]
    groups = []
    steps = weights.shape[1]
    filled = (weights.amax(1) > 0).numpy()
    needed = [-(-int(row.nonzero()[0].max(initial=0) + 1) // ROW_BLOCK) * ROW_BLOCK for row in filled]
    first, longest = 0, 0
    for member, columns in enumerate(needed):
        size = (member - first + 1) * max(longest, columns) * steps
        if member > first and size > GROUP_ROWS:
            groups.append((slice(first, member), longest))
            first, longest = member, 0
        longest = max(longest, columns)
    return [*groups, (slice(first, len(needed)), longest)]


def _first_bad(
    row: int, batch: Batch, before: Params, loss: Tensor, gradients: Params, norm: Tensor, after: Params
) -> str:
    """Name the first tensor of a member that is not finite, in the order of the computation."""
    candidates: list[tuple[str, Tensor]] = [
        ("observations", batch.inputs.obs),
        ("advantages", batch.advantages),
        *((f"parameter {name}", value) for name, value in before.items()),
        ("loss", loss),
        *((f"gradient of {name}", value) for name, value in gradients.items()),
        ("norm of the gradient", norm),
        *((f"parameter {name}", value) for name, value in after.items()),
    ]
    for name, value in candidates:
        if not torch.isfinite(value[row]).all():
            kind = "NaN" if torch.isnan(value[row]).any() else "infinite"
            return f"{name}: {kind}"
    raise AssertionError("called for a member that is finite")
