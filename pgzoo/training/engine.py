"""The engine: what an algorithm is given to learn with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.config import AlgorithmConfig, Member, RunConfig
from pgzoo.ops.acting import memory_size
from pgzoo.ops.members import freeze, map_leaves, moved, none_marked, stacked
from pgzoo.ops.normalize import reward_buffers, take_in_rewards
from pgzoo.ops.optim import NO_OPTIMIZER, flatten, make_optimizer, unflatten
from pgzoo.training import added_critic, gradients, plateau, rollout
from pgzoo.training.compiling import Compiled
from pgzoo.training.environments import Environments
from pgzoo.training.events import EvaluationMode
from pgzoo.training.gradient_step import After, Before, Collected, InnerStep, in_one_piece, inner_step, stack_metrics
from pgzoo.training.gradients import Evidence, check_shape
from pgzoo.training.metrics import Report, Stopwatch
from pgzoo.training.minibatches import Cutter
from pgzoo.training.plan import POLICY, Plan, PolicyView, named, own
from pgzoo.training.rollout import Finished, Greedy, Noise
from pgzoo.training.seeding import generator
from pgzoo.training.targets import EvaluationInputs, bind_estimator, policy_evaluator
from pgzoo.types import (
    RECENT,
    AlgorithmState,
    Batch,
    Episodes,
    Hyper,
    Loss,
    LossFunction,
    Params,
    PolicyEvaluation,
    Spec,
    Steps,
    Targets,
    TrainState,
    Trajectory,
)

__all__ = ["Engine", "Plan", "default_loop", "default_update", "named"]

Tree = TypeVar("Tree")

MANY_LOSSES = 8
"""An algorithm with more losses than so many makes them anew each time; they aren't worth compiling."""

SHORT_WINDOW = 32
"""Steps of a window up to which an update is compiled as one piece: the compiler unrolls what goes along time."""

NO_LIMIT = np.iinfo(np.int64).max


class Engine:
    """What an algorithm is given (`ctx`): it collects, estimates, makes batches and takes gradient steps.

    Every method works on all members at once and moves none but the active ones.
    """

    def __init__(self, plan: Plan, state: TrainState | None = None) -> None:
        """Begin a run, or go on from the `state` of a checkpoint."""
        self.plan = plan
        self.policy = PolicyView(plan)
        self.metrics = Report()
        """The metrics of the current update."""
        self.cancelled: Callable[[], bool] = lambda: False
        """Asked at every step of an environment; true ends the collection or evaluation that is under way."""
        self.watch = Stopwatch("collect", "estimate", "update", "track", "compile", "evaluate")
        self.laps = {"environment": 0.0, "acting": 0.0}
        """Seconds of collecting that went into stepping environments and into choosing actions."""
        self.device = torch.device(plan.config.device)
        """Where the state, and what was collected, lie while they are learned from."""
        self._seeds = plan.seeds
        settings: Any = plan.config.settings
        by_gradient = isinstance(settings, AlgorithmConfig)
        self._optimizer = make_optimizer(settings.optimizer, settings.optimizer_eps) if by_gradient else NO_OPTIMIZER
        self._settings = plan.spread(lambda config: dict(config.settings) | {"gamma": config.gamma})
        self._compiled = plan.config.compile == "on"
        self._padded = self.device.type == "cpu" and not self._compiled
        self._steps: dict[tuple[LossFunction, str], InnerStep] = {}
        self._updates: dict[LossFunction, Callable[[Collected], After]] = {}
        self._policy_evaluator = policy_evaluator(plan, self.policy, padded=self._padded)
        self._evaluate_policy = self._made(self._policy_evaluator)
        self._estimator = bind_estimator(plan, self._settings["gamma"])
        self._flat: tuple[Params, Tensor] = {}, torch.empty(0)
        self._environments = Environments(plan, taking_up=state is not None)
        self._seen: Trajectory | None = None
        self._valid: NDArray[np.bool_] | None = None  # that of `_seen`, here
        self._finished: list[Finished] = []
        self._halted = self._none()
        self._failures: dict[int, str] = {}
        self._evidence: Evidence | None = None
        self.state = self._there(self.init() if state is None else state)
        """Where the run stands; a loop moves it on."""

    # what is known of the run

    @property
    def config(self) -> RunConfig:
        """The configuration of the run, that of the first member."""
        return self.plan.config

    @property
    def settings(self) -> Any:
        """The algorithm's settings, those of the first member."""
        return self.plan.config.settings

    @property
    def members(self) -> tuple[Member, ...]:
        """The S members, each with its own configuration."""
        return self.plan.members

    @property
    def num_envs(self) -> int:
        """Environments per member."""
        return self.plan.config.num_envs

    @property
    def spec(self) -> Spec:
        """The spaces of the environment."""
        return self.plan.spec

    # the life of a run

    def running(self) -> bool:
        """Whether any member is active: what a loop asks before each round."""
        return bool(self.state.active.any())

    def begin_update(self) -> None:
        """Forget what the update before reported."""
        self.metrics, self._finished, self._seen = Report(), [], None
        self._halted = self._none()

    def end_update(self, before: TrainState) -> tuple[TrainState, Finished]:
        """Let the policy take in what was seen, hold who is frozen; return the state and the episodes that ended."""
        with self.watch.phase("update"):
            self._name_failures()
        state = self.state
        absorb = getattr(self.plan.policy, "absorb", None)
        if absorb and self._seen is not None:
            mine = {k: v for k, v in state.buffers.items() if k.startswith(POLICY)}
            obs = self._seen.obs[:, : self._seen.valid.shape[1]]
            state = state._replace(buffers=state.buffers | named(absorb(own(mine), obs, self._seen.valid)))
        if self.plan.config.stop_on_plateau is not None:
            state = state._replace(buffers=state.buffers | plateau.with_best(state))
        members = range(len(self._seeds))
        returns = tuple(np.concatenate([np.zeros(0), *(f.returns[s] for f in self._finished)]) for s in members)
        lengths = tuple(
            np.concatenate([np.zeros(0, np.int64), *(f.lengths[s] for f in self._finished)]) for s in members
        )
        return freeze(before.active, state, before), Finished(returns, lengths)

    @property
    def failures(self) -> Mapping[int, str]:
        """Members that turned non-finite, with the first bad tensor. A look waits for what was begun on the device."""
        self._name_failures()
        return self._failures

    # the pieces of an update, in the order in which they are used

    def init(self) -> TrainState:
        """Return the state before the first update; each member's from its own stream."""
        plan, members = self.plan, len(self._seeds)
        one = [named(plan.policy.init(generator(seed, "init"))) for seed in self._seeds]
        params = {name: torch.stack([m[name] for m in one]) for name in one[0]}
        buffers = named(getattr(plan.policy, "buffers", dict)())
        if plan.config.normalize_reward:
            buffers |= reward_buffers(plan.config.num_envs)
        if plan.config.stop_on_plateau is not None:
            buffers |= plateau.begin()
        kept = self._algorithm_state()
        params |= kept.params
        zeros = np.zeros(members, np.int64)
        return TrainState(
            params=params,
            buffers=_for_all(buffers, members) | kept.buffers,
            optimizer=self._optimizer.init(flatten(params.values()) if params else torch.zeros(members, 0)),
            collector=None,
            active=np.ones(members, np.bool_),
            env_steps=zeros,
            episodes=zeros,
            updates=zeros,
            progress=np.zeros(members),
            recent=np.full((members, RECENT), np.nan),
        )

    def _algorithm_state(self) -> AlgorithmState:
        """Return what the algorithm keeps, each member's made with a generator of its own."""
        init = getattr(self.plan.algorithm, "init", None)
        if init is None:
            return AlgorithmState({}, {})
        each: list[AlgorithmState] = [init(self, generator(seed, "algorithm")) for seed in self._seeds]
        return stacked(each)

    def collect(self, state: TrainState) -> tuple[TrainState, Trajectory]:
        """Let the policy act; count valid steps and finished episodes of the active members. Raises Cancelled."""
        plan, num_envs = self.plan, self.plan.config.num_envs
        state = state._replace(progress=self._progress(state))
        with self._collecting():
            envs, kind = self._environments.training(), plan.collection
            episodes, window = (kind.per_env, None) if isinstance(kind, Episodes) else (NO_LIMIT, kind.count)
            at = None if window is None else state.collector
            at = self._environments.begin(state) if at is None else self._environments.go_on(state, at)
            quota = np.where(state.active, episodes, 0)
            trajectory, finished, collector = rollout.collect(
                envs,
                plan.policy,
                plan.policy_params(state),
                Noise(plan.policy, [self.rng("act", s, state) for s in range(len(self._seeds))], num_envs, window),
                at,
                np.broadcast_to(quota[:, None], at.ended.shape),
                window,
                # a window is played to its end: environments can't go back to where it began
                self.cancelled if window is None else lambda: False,
                self.laps,
            )
        kept = None if window is None else freeze(state.active, collector, at)
        state = state._replace(collector=kept, environments=None)
        return self._counted(state, trajectory, finished)

    def play(self, state: TrainState, candidates: Params) -> tuple[TrainState, NDArray[np.float64]]:
        """Let every environment play one episode by the modes of a policy of its own; return the returns `[S, N]`.

        `candidates` are leaves `[S, N, ...]` of the policy, under the names in the state. For algorithms that search
        in the space of parameters: one candidate per environment. Raises Cancelled.
        """
        plan, members, n = self.plan, len(self._seeds), self.plan.config.num_envs
        state = state._replace(progress=self._progress(state))
        shared = {k: v.unsqueeze(1).expand(-1, n, *v.shape[1:]) for k, v in (state.params | state.buffers).items()}
        params = {k: v.flatten(0, 1).contiguous() for k, v in own(shared | self._there(candidates)).items()}
        with self._collecting():
            envs, at = self._environments.training(), self._environments.begin_apart(state)
            quota = np.repeat(state.active, n)[:, None].astype(np.int64)
            apart, finished, _ = rollout.collect(
                envs, plan.policy, params, Greedy(), at, quota, None, self.cancelled, self.laps
            )

        def together(leaf: Tensor) -> Tensor:  # [S * N, T, 1, ...] -> [S, T, N, ...]
            return leaf.reshape(members, n, *leaf.shape[1:]).squeeze(3).transpose(1, 2)

        trajectory = map_leaves(together, apart._replace(memory=None))
        returns = np.array([r[0] if len(r) else np.nan for r in finished.returns]).reshape(members, n)
        merged = rollout.joined([Finished(finished.returns[k::n], finished.lengths[k::n]) for k in range(n)], members)
        return self._counted(state, trajectory, merged)[0], returns

    def evaluate_policy(self, state: TrainState, trajectory: Trajectory) -> PolicyEvaluation:
        """What these parameters say of a trajectory, in one pass without gradients: values, log-probabilities."""
        params = state.params | state.buffers
        with self.watch.phase("estimate", f'policy "{self.plan.config.policy.name}"'), torch.no_grad():
            evaluated: PolicyEvaluation = self._evaluate_policy(EvaluationInputs(params, trajectory))
            return evaluated

    def estimate(
        self,
        state: TrainState,
        trajectory: Trajectory,
        evaluated: PolicyEvaluation | None = None,
        behavior: Tensor | None = None,
    ) -> Targets:
        """Let the estimator turn rewards into advantages and returns, `[S, T, N]`.

        `behavior [S, T, N]` are the log-probabilities under whatever acted, if that wasn't the policy of `evaluated`.
        """
        if evaluated is None and self.plan.added_critic:
            evaluated = self.evaluate_policy(state, trajectory)
        with self.watch.phase("estimate", f'estimator "{self.plan.config.estimator.name}"'):
            return self._estimator(self._estimator.tensors, state.buffers, trajectory, evaluated, behavior)

    @property
    def needs_policy_evaluation(self) -> bool:
        """Whether anybody asks what the policy that collected says of the trajectory."""
        return bool(self.plan.needs & {"value", "log_probs", "old"}) or "log_rhos" in self._estimator.takes

    def cutter(
        self,
        trajectory: Trajectory,
        targets: Targets,
        evaluated: PolicyEvaluation | None = None,
        extra: dict[str, Tensor] | None = None,
    ) -> Cutter:
        """Make ready to cut batches; leaves of `extra` are `[S, T, N, ...]`."""
        known = self._seen is not None and trajectory.valid is self._seen.valid
        return Cutter(
            trajectory,
            targets,
            evaluated,
            window=isinstance(self.plan.collection, Steps),
            sequences=bool(memory_size(self.plan.policy)),
            needs=self.plan.needs,
            extra=self._there(extra),
            few_sizes=self._compiled and not isinstance(self.plan.collection, Steps),
            valid=self._valid if known else None,
        )

    def batch(self, trajectory: Trajectory, targets: Targets, evaluated: PolicyEvaluation | None = None) -> Batch:
        """Everything in one batch: each member's rows side by side, `[S, 1, B]`, padded with rows of weight 0."""
        return self.cutter(trajectory, targets, evaluated).whole()

    def minibatches(
        self,
        state: TrainState,
        trajectory: Trajectory,
        targets: Targets,
        evaluated: PolicyEvaluation | None = None,
        *,
        epochs: range | None = None,
        count: int | None = None,
        extra: dict[str, Tensor] | None = None,
    ) -> Iterator[Batch]:
        """Go through everything, once per epoch, in `count` parts; default: what the setting `minibatches` says.

        The rows of each member are shuffled anew in every epoch. `epochs` numbers them for an algorithm that does
        something between two; default: all that the setting `epochs` says. It ends early once no active member goes
        on (see `Loss.halt`), where that can be seen without waiting for a device.
        """
        settings = self.plan.config.settings
        parts = getattr(settings, "minibatches", 1) if count is None else count
        cutter = self.cutter(trajectory, targets, evaluated, extra)
        for epoch in range(getattr(settings, "epochs", 1)) if epochs is None else epochs:

            def order(member: int, n: int, epoch: int = epoch) -> NDArray[np.int64]:
                return self.rng("shuffle", member, state, epoch).permutation(n)

            for batch in cutter.minibatches(order, parts):
                if none_marked(self._going(state)):
                    return
                yield batch

    def gradient(self, loss: LossFunction, state: TrainState, batch: Batch, only: str = "") -> tuple[Loss, Tensor]:
        """Differentiate `loss` on a batch; see `gradients.gradient`."""
        everything = state.params, state.buffers, batch, self.hyper(state)
        return gradients.gradient(loss, self.policy, *everything, only, padded=self.device.type == "cpu")

    def hvp(
        self, scalar: Callable[..., Tensor], state: TrainState, batch: Batch, only: str = ""
    ) -> Callable[[Tensor], Tensor]:
        """Return the product with the Hessian of `scalar`; see `gradients.hessian_product`."""
        hyper = self.hyper(state)
        return gradients.hessian_product(scalar, self.policy, state.params, state.buffers, batch, hyper, only)

    def step(self, loss: LossFunction, state: TrainState, batch: Batch, only: str = "") -> TrainState:
        """Take one gradient step on `loss`: clipped per member, frozen where a member is not active or not finite.

        With `only`, nothing but the parameters whose names begin so are moved, and the optimizer counts their steps
        apart from those of the others. Without any parameters nothing happens.
        """
        if not state.params:
            return state
        going = self._going(state)
        after = self._inner(loss, only, self._before(state, batch, going), state.params)
        return self._taken(state, after, going, lambda: batch)

    @property
    def steps_in_one_piece(self) -> bool:
        """Whether an update of one gradient step is best compiled as a whole: of a window so short that it's cheap."""
        kind, settings = self.plan.collection, self.plan.config.settings
        short = isinstance(kind, Steps) and kind.count <= SHORT_WINDOW and not memory_size(self.plan.policy)
        return self._compiled and short and getattr(settings, "epochs", 1) == getattr(settings, "minibatches", 1) == 1

    def step_in_one_piece(self, loss: LossFunction, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Look back, estimate, make a batch of everything and take one step on `loss`, as one compiled function."""
        if not state.params:
            return state

        def cut(*collected: Any) -> Batch:
            return self.cutter(*collected).whole()

        update = self._updates.get(loss)
        if update is None:
            look = self._policy_evaluator if self.needs_policy_evaluation else None
            whole = in_one_piece(look, self._estimator, cut, self._fresh_step(loss, "", state.params), state.params)
            update = self._updates[loss] = self._made(whole)
        going = self._going(state)
        before = self._before(state, None, going)
        after = update(Collected(before, trajectory, self._estimator.tensors))

        def batch() -> Batch:
            evaluated = self.evaluate_policy(state, trajectory) if self.needs_policy_evaluation else None
            return self.batch(trajectory, self.estimate(state, trajectory, evaluated), evaluated)

        return self._taken(state, after, going, batch)

    def move(
        self,
        state: TrainState,
        vector: Tensor,
        *,
        batch: Batch,
        value: Tensor,
        gradient: Tensor,
        metrics: Mapping[str, Tensor],
    ) -> TrainState:
        """Put the parameters at `vector [S, P]`, for members that are active, not halted, and finite in all of this.

        `value [S]` and `gradient [S, P]` are those of the loss on `batch` that led there. A member that is not finite
        has failed; the first bad tensor is named.
        """
        if self.plan.added_critic:
            raise added_critic.refuse_move(self.plan.config.algorithm, self.plan.config.estimator.name)
        norm = gradient.square().sum(1)
        reach = vector.abs().amax(1) if vector.shape[1] else norm
        finite = torch.isfinite(value) & torch.isfinite(norm) & torch.isfinite(reach)
        going = self._going(state)
        self.metrics.add(tuple(metrics), stack_metrics(metrics), going)
        self._note_failures(going & ~finite, lambda: batch, state.params, value, gradient, norm, vector)
        vector = torch.where((going & finite).unsqueeze(1), vector, flatten(state.params.values()))
        return state._replace(params=unflatten(vector, state.params))

    def place(self, state: TrainState, vector: Tensor) -> TrainState:
        """Put the parameters of the active members at `vector [S, P]`; one that is not finite has failed."""
        params = unflatten(vector, state.params)
        moving = state.active.copy()
        for row in np.flatnonzero(moving):
            bad = next((name for name, value in params.items() if not torch.isfinite(value[row]).all()), None)
            if bad is not None:
                self._failures.setdefault(int(row), f"parameter {bad}: not finite")
                moving[row] = False
        return state._replace(params=freeze(moving, self._there(params), state.params))

    def hyper(self, state: TrainState) -> Hyper:
        """The algorithm's settings as a loss sees them."""
        return Hyper(self._settings | self._tensors(state))

    def learning_rate(self, state: TrainState) -> Tensor:
        """The step size `[S]` under the schedule, by how much of its run each member has done."""
        base: Tensor = self._settings["learning_rate"].reshape(-1)
        if self._settings["learning_rate_schedule"] == "constant":
            return base
        return base * self._there(torch.from_numpy(1.0 - state.progress).float())

    def rng(self, stream: str, member: int, state: TrainState, *index: int) -> np.random.Generator:
        """A generator of its own for this stream, member and update, and what else tells its uses apart."""
        return generator(self._seeds[member], stream, int(state.updates[member]), *index)

    def report(self, metrics: Mapping[str, Tensor | NDArray[Any]], members: Tensor | None = None) -> None:
        """Report metrics of this update, `[S]` each, averaged over calls; `members [S]` says for which they count."""
        values = {name: self._there(torch.as_tensor(value)) for name, value in metrics.items()}
        for name, value in values.items():
            check_shape(f"metric {name}", value, (len(self._seeds),))
        counts = ~self._none() if members is None else members
        self.metrics.add(tuple(values), stack_metrics(values), counts)

    def hold(self, members: NDArray[np.bool_]) -> None:
        """Members have ended; whatever the others do, a later run of theirs goes on from here."""
        self._environments.hold(self.state, members)

    def snapshot(self, *, environments: bool = True) -> TrainState:
        """The state as it leaves the engine: in the processor's memory, wherever it is computed with.

        With `environments` there is all in it that a later run needs to go on from here, bit for bit if they allow it.
        """
        return moved(self._environments.snapshot(self.state) if environments else self.state, torch.device("cpu"))

    def evaluate(self, state: TrainState, active: NDArray[np.bool_], mode: EvaluationMode) -> Finished:
        """Play the evaluation episodes of the active members on environments of their own.

        Episode k starts in the same state for every member and algorithm; actions come from the member's own stream.
        Every environment plays the same number of episodes or one less, so that short ones are not over-sampled: where
        it is cancelled, the rounds that are complete count.
        """
        c, plan = self.plan.config, self.plan
        with self.watch.phase("evaluate", f'environment "{c.env}"'):
            return rollout.evaluate(
                self._environments.evaluation(),
                self._environments.evaluation_width,
                plan.policy,
                plan.policy_params(state),
                seeds=self._seeds,
                active=active,
                episodes=c.eval_episodes,
                mode=mode,
                cancelled=self.cancelled,
            )

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()

    def _made(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A pure function as the run is to have it: compiled or as it is."""
        return Compiled(function, self.watch, self.plan.compile_cache) if self._compiled else function

    def _before(self, state: TrainState, batch: Batch | None, going: Tensor) -> Before:
        known, vector = self._flat
        if known is not state.params:  # not where the last step led
            vector = flatten(state.params.values())
        rate = self.learning_rate(state)
        return Before(vector, state.optimizer, state.buffers, batch, self._tensors(state), rate, going)

    def _taken(self, state: TrainState, after: After, going: Tensor, batch: Callable[[], Batch]) -> TrainState:
        """Note what came of a step, and go to where it led."""
        going = going & after.rows
        if after.halt is not None:
            self._halted = self._halted | (after.halt & after.rows)
            going = going & ~after.halt
        self.metrics.add(after.names, after.metrics, going)
        bad = going & ~after.finite
        self._note_failures(bad, batch, state.params, after.value, after.gradient, after.norm, after.reached)
        self._flat = unflatten(after.vector, state.params), after.vector
        return state._replace(params=self._flat[0], optimizer=after.optimizer)

    def _inner(self, loss: LossFunction, only: str, before: Before, like: Params) -> After:
        """Take the inner step; each loss has one of its own."""
        step = self._steps.get((loss, only))
        if step is None:
            step = self._fresh_step(loss, only, like)
            if self._compiled and len(self._steps) < MANY_LOSSES:
                step = self._steps[loss, only] = self._made(step)
        return step(before)

    def _fresh_step(self, loss: LossFunction, only: str, like: Params) -> InnerStep:
        settings = {name: value for name, value in self._settings.items() if not isinstance(value, Tensor)}
        also = added_critic.also_moved(only) if self.plan.added_critic else None
        if also is not None:
            loss = added_critic.with_critic_loss(loss)
        return inner_step(loss, self.policy, like, settings, self._optimizer, only, also=also, padded=self._padded)

    def _there(self, tree: Tree) -> Tree:
        """What was made here, where the state lies."""
        return tree if self.device.type == "cpu" else moved(tree, self.device)

    def _none(self) -> Tensor:
        return torch.zeros(len(self._seeds), dtype=torch.bool, device=self.device)

    def _going(self, state: TrainState) -> Tensor:
        return self._there(torch.from_numpy(state.active)) & ~self._halted

    def _note_failures(self, bad: Tensor, batch: Callable[[], Batch], params: Params, *found: Tensor) -> None:
        """Keep of every member in `bad [S]` what shows which tensor isn't finite: to look now might mean to wait."""
        if not none_marked(bad):
            fresh = Evidence.of(bad, batch(), params, *found)
            self._evidence = fresh if self._evidence is None else fresh.over(self._evidence)

    def _name_failures(self) -> None:
        """Name for every member that turned non-finite the first tensor that did: one look for a whole update."""
        evidence, self._evidence = self._evidence, None
        if evidence is None or not evidence.bad.any():
            return
        evidence = moved(evidence, torch.device("cpu"))
        rewards = None if self._seen is None else self._seen.rewards
        for row in np.flatnonzero(evidence.bad.numpy()):
            self._failures[int(row)] = evidence.first(int(row), rewards, self.state.params)

    def _tensors(self, state: TrainState) -> Params:
        """The settings that are tensors, and how much of its run each member has before it."""
        remaining = self._there(torch.from_numpy(1.0 - state.progress).float().reshape(-1, 1, 1))
        tensors = {name: value for name, value in self._settings.items() if isinstance(value, Tensor)}
        return tensors | {"remaining": remaining}

    def _progress(self, state: TrainState) -> NDArray[np.float64]:
        c, done = self.plan.config, np.zeros(len(self._seeds))
        if c.total_steps is not None:
            done = np.maximum(done, state.env_steps / c.total_steps)
        if c.total_episodes is not None:
            done = np.maximum(done, state.episodes / c.total_episodes)
        return np.minimum(done, 1.0)

    @contextmanager
    def _collecting(self) -> Iterator[None]:
        """Time a collection. What overflows in it is found in the update that follows, and named."""
        c = self.plan.config
        with (
            self.watch.phase("collect", f'environment "{c.env}" or policy "{c.policy.name}"'),
            np.errstate(over="ignore", invalid="ignore"),
        ):
            yield

    def _counted(self, state: TrainState, trajectory: Trajectory, finished: Finished) -> tuple[TrainState, Trajectory]:
        """Count what was collected, bring it where the state lies, and keep it for the end of the update."""
        state = state._replace(env_steps=state.env_steps + trajectory.valid.sum((-2, -1)).numpy())
        self._valid = trajectory.valid.numpy()
        # an algorithm may ignore rewards, or rank them: it doesn't turn non-finite by itself
        bad = gradients.bad_rewards(trajectory.rewards)
        self._failures.update({row: why for row, why in bad.items() if state.active[row]})
        self._seen = trajectory = self._there(trajectory)
        self._finished.append(finished)
        if any(map(len, finished.returns)):
            both = zip(state.recent, finished.returns, strict=True)
            state = state._replace(
                episodes=state.episodes + np.array([len(r) for r in finished.returns], np.int64),
                recent=np.stack([np.concatenate([known, new])[-RECENT:] for known, new in both]),
            )
        if self.plan.config.normalize_reward:
            known = take_in_rewards(state.buffers, trajectory, self._settings["gamma"].reshape(-1, 1, 1))
            state = state._replace(buffers=freeze(state.active, known, state.buffers))
        return state, trajectory


def default_update(ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
    """What an algorithm that gives only a loss gets: gradient steps on everything that was collected."""
    if ctx.steps_in_one_piece:
        return ctx.step_in_one_piece(ctx.plan.algorithm.loss, state, trajectory)
    evaluated = ctx.evaluate_policy(state, trajectory) if ctx.needs_policy_evaluation else None
    targets = ctx.estimate(state, trajectory, evaluated)
    for batch in ctx.minibatches(state, trajectory, targets, evaluated):
        state = ctx.step(ctx.plan.algorithm.loss, state, batch)
    return state


def default_loop(ctx: Engine) -> Iterator[None]:
    """What an algorithm without a loop of its own gets: collect and update, in turn."""
    update = getattr(ctx.plan.algorithm, "update", default_update)
    while ctx.running():
        ctx.state, trajectory = ctx.collect(ctx.state)
        ctx.state = update(ctx, ctx.state, trajectory)
        yield


def _for_all(one: Params, members: int) -> Params:
    """One member's tensors for each of them."""
    return {name: value.expand(members, *value.shape).clone() for name, value in one.items()}
