"""The engine: implements the context that algorithms are given (`protocols.UpdateContext`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.config import Member, RunConfig
from pgzoo.errors import PgzooError, PluginError, RunFailed, raised_at
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.members import freeze, stack_members, to_device
from pgzoo.ops.normalize import reward_buffers, update_reward_moments
from pgzoo.ops.optim import flatten
from pgzoo.training import gradients, plateau
from pgzoo.training.activity import Cancelled
from pgzoo.training.compiled_steps import in_groups
from pgzoo.training.compiling import operations_of
from pgzoo.training.evaluation import Evaluation
from pgzoo.training.events import EvaluationMode
from pgzoo.training.failures import bad_rewards
from pgzoo.training.gradient_step import stack_metrics
from pgzoo.training.hyperparameters import Hyperparameters
from pgzoo.training.interaction import Interaction
from pgzoo.training.learner import Learner
from pgzoo.training.metrics import Stopwatch, UpdateMetrics
from pgzoo.training.minibatches import Batcher, Minibatches
from pgzoo.training.plan import POLICY, Plan, PolicyView, policy_tensors, with_state_names
from pgzoo.training.seeding import generator
from pgzoo.training.tape import FinishedEpisodes
from pgzoo.training.targets import (
    VALUE_NEEDS,
    EstimationInputs,
    EvaluationInputs,
    bind_estimator,
    evaluate_and_estimate,
    policy_evaluator,
)
from pgzoo.training.update_record import Estimated, UpdateRecord
from pgzoo.types import (
    RECENT,
    AlgorithmState,
    Batch,
    Hyper,
    Loss,
    LossFunction,
    NoiseKind,
    Params,
    PolicyEvaluation,
    Spec,
    Steps,
    Targets,
    TrainState,
    Trajectory,
)

__all__ = ["Engine", "default_loop", "default_update", "rounds_of"]

SHORT_WINDOW = 32
"""Maximum window length for compiling a whole update as one function, because compiling unrolls loops over time."""

MAX_ESTIMATOR_OPERATIONS = 200
"""An estimator with more operations, such as a loop over time, isn't compiled with the evaluation of the policy."""

Update = Callable[["Engine", TrainState, Trajectory], TrainState]


class Engine:
    """Collects, estimates, makes batches and takes gradient steps, for all members at once.

    See `protocols.UpdateContext` for its methods. It delegates to `interaction` (acting in environments), `learner`
    (parameter updates), `hyperparameters`, and `record` (one per update).
    """

    def __init__(self, plan: Plan, state: TrainState | None = None) -> None:
        """Start a run, or resume one from the `state` of a checkpoint."""
        self.plan = plan
        self.policy = PolicyView(plan)
        self.device = torch.device(plan.config.device)
        self.watch = Stopwatch("collect", "estimate", "update", "track", "compile", "evaluate")
        self.record = UpdateRecord()
        self.hyperparameters = Hyperparameters(plan)
        self.interaction = Interaction(plan, self.watch, resuming=state is not None)
        monitor = self.interaction.monitor
        self.learner = Learner(plan, self.policy, self.hyperparameters, self.watch, lambda: monitor.cancelled())
        self._estimator = bind_estimator(plan, self.hyperparameters.gamma)
        self._evaluator = policy_evaluator(plan, self.policy, padded=self.learner.padded)
        self._compiled_evaluator = self.learner.compile(self._evaluator)
        self._compiled_estimation = self.learner.compile(evaluate_and_estimate(self._evaluator, self._estimator))
        self._estimates_compiled: bool | None = None  # decided in the first evaluation
        self._starts_loop = False  # while `rounds_of` calls the algorithm's loop
        self.state = to_device(self.init() if state is None else state, self.device)
        self._names = tuple(self.state.params), tuple(self.state.buffers)

    # the run

    @property
    def config(self) -> RunConfig:
        """The configuration of the run; that of the first member."""
        return self.plan.config

    @property
    def settings(self) -> Any:
        """The algorithm's settings; those of the first member."""
        return self.plan.config.settings

    @property
    def algorithm(self) -> Any:
        """The algorithm."""
        return self.plan.algorithm

    @property
    def members(self) -> tuple[Member, ...]:
        """The S members, each with its configuration."""
        return self.plan.members

    @property
    def num_envs(self) -> int:
        """N, the number of environments per member."""
        return self.plan.config.num_envs

    @property
    def spec(self) -> Spec:
        """The spaces of the environment."""
        return self.plan.spec

    @property
    def info(self) -> tuple[str, ...]:
        """The keys of the environment's info whose values the run needs."""
        return self.plan.info

    def running(self) -> bool:
        """Whether any member is active."""
        return bool(self.state.active.any())

    def init(self) -> TrainState:
        """Return the state before the first update; each member's parameters come from its own random stream."""
        plan, members = self.plan, len(self.plan.members)
        one = [self.policy.init(generator(seed, "init")) for seed in plan.seeds]
        params = {name: torch.stack([m[name] for m in one]) for name in one[0]}
        buffers = with_state_names(getattr(plan.policy, "buffers", dict)())
        if plan.config.normalize_reward:
            buffers |= reward_buffers(plan.config.num_envs)
        if plan.config.stop_on_plateau is not None:
            buffers |= plateau.initial_buffers()
        buffers = _for_all(buffers, members)
        params |= {name: value.clone() for name, value in plan.initial.items() if name in params}
        buffers |= {name: value.clone() for name, value in plan.initial.items() if name in buffers}
        extra = self._algorithm_state(params)
        if taken := sorted((extra.params.keys() | extra.buffers.keys()) & (params.keys() | buffers.keys())):
            raise PluginError(
                f'Algorithm "{plan.config.algorithm}" returns from init a tensor named "{taken[0]}", which the policy '
                'already has. Give the algorithm\'s tensors a prefix of their own, such as "mine.".'
            )
        params |= extra.params
        zeros = np.zeros(members, np.int64)
        return TrainState(
            params=params,
            buffers=buffers | extra.buffers,
            optimizer=self.learner.optimizer.init(flatten(params.values()) if params else torch.zeros(members, 0)),
            collector=None,
            active=np.ones(members, np.bool_),
            env_steps=zeros,
            episodes=zeros,
            updates=zeros,
            progress=np.zeros(members),
            recent=np.full((members, RECENT), np.nan),
        )

    def _algorithm_state(self, params: Params) -> AlgorithmState:
        """Return the algorithm's tensors; those of each member are created with the member's random generator.

        `params [S, ...]` are the initial parameters of the policy.
        """
        init = getattr(self.plan.algorithm, "init", None)
        if init is None:
            return AlgorithmState({}, {})
        takes_params = "params" in inspect.signature(init).parameters
        each: list[AlgorithmState] = []
        who = f'Algorithm "{self.plan.config.algorithm}"'
        for member, seed in enumerate(self.plan.seeds):
            own = {"params": {name: leaf[member].clone() for name, leaf in params.items()}} if takes_params else {}
            try:
                each.append(init(self, generator(seed, "algorithm"), **own))
            except PgzooError:
                raise
            except Exception as error:
                raise PluginError(f"{who}: init raised {type(error).__name__}: {error}{raised_at(error)}") from error
        if problem := _problem_of(each[0]):
            raise PluginError(
                f"{who} must return pgzoo.types.AlgorithmState(params, buffers) from init, two dicts of tensors by "
                f"name; {problem}."
            )
        return stack_members(each)

    def begin_update(self) -> None:
        """Start a new record."""
        self.record = UpdateRecord()

    def end_update(self, before: TrainState) -> tuple[TrainState, FinishedEpisodes]:
        """Return the state after an update that started from `before`, and the episodes that ended in it.

        The policy's buffers are updated with the collected data; members not active in `before` are unchanged.
        """
        with self.watch.phase("update"):
            self.record.failures()
        state, seen = self._checked(self.state, before)._replace(halted=None), self.record.trajectory
        absorb = getattr(self.plan.policy, "absorb", None)
        if absorb and seen is not None:
            buffers = policy_tensors({k: v for k, v in state.buffers.items() if k.startswith(POLICY)})
            absorbed = absorb(buffers, seen.obs[:, : seen.valid.shape[1]], seen.valid)
            state = state._replace(buffers=state.buffers | with_state_names(absorbed))
        if self.plan.config.stop_on_plateau is not None:
            state = state._replace(buffers=state.buffers | plateau.update_best(state))
        return freeze(before.active, state, before), self.record.finished(len(self.members))

    def _checked(self, state: TrainState, before: TrainState) -> TrainState:
        """Return the state that the algorithm leaves, with its tensors in the order of `_names`.

        Raises RunFailed if it isn't a state with the tensors that it had.
        """
        who = f'Algorithm "{self.plan.config.algorithm}"'
        if not isinstance(state, TrainState):
            raise RunFailed(
                f"{who} must leave a TrainState: return it from update, or assign it to ctx.state in loop. It is "
                f"{_shortened(state)}."
            )
        for tree, known in ((state.params, before.params), (state.buffers, before.buffers)):
            if tree is known or self.learner.made(tree):
                continue
            if odd := sorted(tree.keys() ^ known.keys()):
                what = "lacks" if odd[0] in known else "has a new tensor,"
                raise RunFailed(
                    f'{who}: the state after an update {what} "{odd[0]}". An algorithm adds its tensors in init, and '
                    "an update replaces them: state._replace(buffers=state.buffers | {name: tensor})."
                )
            for name, leaf in tree.items():
                if not isinstance(leaf, Tensor) or leaf.shape != known[name].shape:
                    raise RunFailed(
                        f'{who}: "{name}" is {_shortened(leaf)} after an update; expected a tensor of shape '
                        f"{list(known[name].shape)}."
                    )
        return self._in_order(state)

    def _in_order(self, state: TrainState) -> TrainState:
        """Return the state with its tensors in the order of `_names`, on which steps and compiled functions depend."""
        params, buffers = self._names
        if tuple(state.params) != params and state.params.keys() == set(params):
            state = state._replace(params={name: state.params[name] for name in params})
        if tuple(state.buffers) != buffers and state.buffers.keys() == set(buffers):
            state = state._replace(buffers={name: state.buffers[name] for name in buffers})
        return state

    # interaction

    def collect(self, state: TrainState, noise: Tensor | None = None) -> tuple[TrainState, Trajectory]:
        """Let the policy act in the environments, with this noise if it is given. Raises Cancelled, ValueError."""
        self._expect_in_round()
        state, trajectory, finished = self.interaction.collect(state, noise, self.record.next_collection())
        return self._receive(state, trajectory, finished)

    def collect_while(
        self, state: TrainState, meanwhile: Callable[[TrainState], TrainState]
    ) -> tuple[TrainState, Trajectory]:
        """Let the policy of `state` act while `meanwhile` trains the state. Return the trained state."""
        self._expect_in_round()
        before = state
        state, trajectory, finished = self.interaction.collect(
            state, call=self.record.next_collection(), meanwhile=meanwhile
        )
        state, trajectory = self._receive(state, trajectory, finished)
        self.record.collected_by = before._replace(progress=state.progress)
        return state, trajectory

    def play(self, state: TrainState, candidates: Params, *index: int) -> tuple[TrainState, NDArray[np.float64]]:
        """Play one episode per environment with greedy actions, each with different parameters. Raises Cancelled."""
        self._expect_in_round()
        state, returns, trajectory, finished = self.interaction.play(state, to_device(candidates, self.device), *index)
        return self._receive(state, trajectory, finished)[0], returns

    def evaluate(self, state: TrainState, active: NDArray[np.bool_], mode: EvaluationMode) -> Evaluation:
        """Play the evaluation episodes of the members in `active [S]`; see `evaluation.evaluate`."""
        return self.interaction.evaluate(state, active, mode)

    def _expect_in_round(self) -> None:
        """Raise RunFailed if a loop that is no generator acts when it is called: it might never return."""
        if self._starts_loop:
            raise no_generator_error(self.plan.config.algorithm)

    def _receive(
        self, state: TrainState, trajectory: Trajectory, finished: FinishedEpisodes
    ) -> tuple[TrainState, Trajectory]:
        """Move a trajectory to the device, record it, and update the reward normalizer."""
        # non-finite rewards wouldn't be noticed with an algorithm that ignores or ranks rewards
        for row, reason in bad_rewards(trajectory.rewards).items():
            if state.active[row]:
                self.record.add_failure(row, reason)
        valid = trajectory.valid.numpy()
        if self.device.type != "cpu":
            trajectory = to_device(trajectory, self.device)
        self.record.add_collection(trajectory, valid, finished)
        if self.plan.config.normalize_reward:
            known = update_reward_moments(state.buffers, trajectory, self.hyperparameters.gamma.reshape(-1, 1, 1))
            state = state._replace(buffers=freeze(state.active, known, state.buffers))
        self.record.collected_by = state
        return state, trajectory

    # learning targets

    @property
    def needs_policy_evaluation(self) -> bool:
        """Whether the algorithm or the estimator needs the policy evaluated on the trajectory."""
        return bool(self.plan.needs & (VALUE_NEEDS | {"log_probs", "old"})) or "log_rhos" in self._estimator.takes

    def evaluate_policy(self, state: TrainState, trajectory: Trajectory) -> PolicyEvaluation:
        """Evaluate the policy of `state` at every step of a trajectory, without gradients."""
        state = self._in_order(state)
        params = self.learner.canonical(state.params) | state.buffers
        with self.watch.phase("estimate", f'policy "{self.plan.config.policy.name}"'), torch.no_grad():
            inputs, (members, steps, num_envs) = EvaluationInputs(params, trajectory), trajectory.starts.shape
            evaluated: PolicyEvaluation
            if self._estimates_compiled is None:
                self._estimates_compiled = self._can_compile_estimates(inputs)
            if self._estimates_compiled and not getattr(self._compiled_estimation, "failed", False):
                both = EstimationInputs(inputs, self._estimator.tensors)
                evaluated, targets = in_groups(self._compiled_estimation, both, members, steps * num_envs)
                self.record.estimated = Estimated(evaluated, trajectory, state.buffers, targets)
            elif self.learner.compiled and self.device.type == "cpu":
                evaluated = in_groups(self._compiled_evaluator, inputs, members, steps * num_envs)
            else:
                evaluated = self._compiled_evaluator(inputs)
            return evaluated

    def _can_compile_estimates(self, inputs: EvaluationInputs) -> bool:
        """Return whether the estimator is compiled together with the evaluation of the policy.

        It is not if it makes many operations, as a loop over time does, or reads tensors; or if it raises an exception
        on these inputs, which is reported where the algorithm asks for the estimate.
        """
        if not (self.learner.compiled and self.device.type == "cpu" and isinstance(self.plan.collection, Steps)):
            return False
        tensors, (params, trajectory) = self._estimator.tensors, inputs
        try:
            evaluated = self._evaluator(inputs)
            names = operations_of(lambda: self._estimator(tensors, params, trajectory, evaluated))
        except Exception:
            return False
        return len(names) <= MAX_ESTIMATOR_OPERATIONS and "aten::_local_scalar_dense" not in names

    def estimate(
        self,
        state: TrainState,
        trajectory: Trajectory,
        evaluated: PolicyEvaluation | None = None,
        behavior: Tensor | None = None,
        bonus: Tensor | None = None,
    ) -> Targets:
        """Compute advantages, returns and weights, `[S, T, N]` each."""
        if evaluated is None and self.plan.added_critic:
            evaluated = self.evaluate_policy(state, trajectory)
        self._estimator.check_call(self.plan.config, trajectory, evaluated, bonus)
        known, self.record.estimated = self.record.estimated, None
        if known and behavior is None and bonus is None and known.fits(evaluated, trajectory, state.buffers):
            return known.targets
        with self.watch.phase("estimate", f'estimator "{self.plan.config.estimator.name}"'):
            return self._estimator(self._estimator.tensors, state.buffers, trajectory, evaluated, behavior, bonus)

    # batches

    def batch(self, trajectory: Trajectory, targets: Targets, evaluated: PolicyEvaluation | None = None) -> Batch:
        """Return the whole trajectory as one batch."""
        return self._batcher(trajectory, targets, evaluated).whole()

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
    ) -> Minibatches:
        """Return an iterator over `count` minibatches per epoch, shuffled per member."""
        settings = self.settings
        batcher = self._batcher(trajectory, targets, evaluated, extra)
        updates, seeds = state.updates, self.plan.seeds

        def order(epoch: int, member: int, n: int) -> NDArray[np.int64]:
            return generator(seeds[member], "shuffle", int(updates[member]), epoch).permutation(n)

        orders = [partial(order, e) for e in (range(getattr(settings, "epochs", 1)) if epochs is None else epochs)]
        return batcher.minibatches(orders, getattr(settings, "minibatches", 1) if count is None else count)

    def _batcher(
        self,
        trajectory: Trajectory,
        targets: Targets,
        evaluated: PolicyEvaluation | None = None,
        extra: dict[str, Tensor] | None = None,
    ) -> Batcher:
        window, seen = isinstance(self.plan.collection, Steps), self.record.trajectory
        return Batcher(
            trajectory,
            targets,
            evaluated,
            window=window,
            sequences=bool(self.policy.memory_size),
            needs=self.plan.needs,
            extra=to_device(extra, self.device),
            few_sizes=self.learner.compiled and not window,
            valid=self.record.valid if seen is not None and trajectory.valid is seen.valid else None,
        )

    # gradient steps

    def step(
        self,
        loss: LossFunction,
        state: TrainState,
        batch: Batch,
        only: str | tuple[str, ...] = "",
        learning_rates: Mapping[str, Tensor] | None = None,
    ) -> TrainState:
        """Take one gradient step on `loss`."""
        return self.learner.step(self.record, loss, self._in_order(state), batch, only, learning_rates or {})

    def steps(
        self,
        loss: LossFunction,
        state: TrainState,
        batches: Iterable[Batch],
        only: str | tuple[str, ...] = "",
        learning_rates: Mapping[str, Tensor] | None = None,
    ) -> TrainState:
        """Take a gradient step on each batch in turn."""
        return self.learner.steps(self.record, loss, self._in_order(state), batches, only, learning_rates or {})

    def gradient(
        self, loss: LossFunction, state: TrainState, batch: Batch, only: str | tuple[str, ...] = ""
    ) -> tuple[Loss, Tensor]:
        """Return the loss and its gradient, `[S, P]`."""
        everything = state.params, state.buffers, batch, self.hyper(state)
        return gradients.gradient(loss, self.policy, *everything, only, padded=self.device.type == "cpu")

    def hvp(
        self, scalar: Callable[..., Tensor], state: TrainState, batch: Batch, only: str | tuple[str, ...] = ""
    ) -> Callable[[Tensor], Tensor]:
        """Return the product with the Hessian of `scalar`, `[S, P] -> [S, P]`."""
        hyper = self.hyper(state)
        return gradients.hessian_product(scalar, self.policy, state.params, state.buffers, batch, hyper, only)

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
        """Set the parameters to `vector [S, P]`, the result of a step computed by the algorithm."""
        gradients.check_metrics(metrics, value.shape)
        return self.learner.move(self.record, state, vector, batch, value, gradient, metrics)

    def place(self, state: TrainState, vector: Tensor) -> TrainState:
        """Set the parameters to `vector [S, P]`, for algorithms without a gradient."""
        return self.learner.place(self.record, state, vector)

    @property
    def compiles_whole_updates(self) -> bool:
        """Whether `default_update` is compiled as one function: if it takes one step per update, on a short window."""
        kind, settings = self.plan.collection, self.settings
        short = isinstance(kind, Steps) and kind.count <= SHORT_WINDOW and not self.policy.memory_size
        one_step = getattr(settings, "epochs", 1) == getattr(settings, "minibatches", 1) == 1
        return self.learner.compiled and short and one_step

    def whole_update(self, state: TrainState, trajectory: Trajectory) -> TrainState:
        """Do what `default_update` does, for one step per update, as one compiled function."""
        evaluator = self._evaluator if self.needs_policy_evaluation else None
        parts = evaluator, self._estimator, self.batch
        loss = self.plan.algorithm.loss
        return self.learner.whole_update(self.record, loss, self._in_order(state), trajectory, *parts)

    # settings, randomness, metrics

    def hyper(self, state: TrainState) -> Hyper:
        """Return the settings as a loss sees them."""
        return self.hyperparameters.hyper(state)

    def learning_rate(self, state: TrainState) -> Tensor:
        """Return the learning rate under its schedule, `[S]`."""
        return self.hyperparameters.learning_rate(state)

    def rng(self, stream: str, member: int, state: TrainState, *index: int) -> np.random.Generator:
        """Return a fresh generator, determined by the member's seed, the stream, the update and `index`."""
        return generator(self.plan.seeds[member], stream, int(state.updates[member]), *index)

    def noise(
        self, stream: str, state: TrainState, shape: Sequence[int], *index: int, kind: NoiseKind = "normal"
    ) -> Tensor:
        """Return random numbers `[S, *shape]`, each member's from its own generator."""
        generators = (self.rng(stream, member, state, *index) for member in range(len(self.members)))
        noise = np.stack([draw_noise(kind, generator, tuple(shape)) for generator in generators])
        return torch.from_numpy(noise).to(self.device, non_blocking=True)

    def report(self, metrics: Mapping[str, Tensor | NDArray[Any]], members: Tensor | None = None) -> None:
        """Report metrics of this update, `[S]` each, averaged over calls."""
        count = len(self.members)
        values = {name: to_device(torch.as_tensor(value), self.device) for name, value in metrics.items()}
        gradients.check_metrics(values, (count,))
        everyone = torch.ones(count, dtype=torch.bool, device=self.device)
        self.record.metrics.add(tuple(values), stack_metrics(values), everyone if members is None else members)

    @property
    def metrics(self) -> UpdateMetrics:
        """The metrics of the current update."""
        return self.record.metrics

    @property
    def failures(self) -> Mapping[int, str]:
        """The members that failed in the current update, each with the reason. Waits for the device."""
        return self.record.failures()

    # checkpoints, and the end

    def keep_environments_of(self, members: NDArray[np.bool_]) -> None:
        """Save the environments of members `[S]` (bool) that have ended, before the others continue."""
        self.interaction.environments.save_ended(self.state, members)

    def snapshot(self, *, environments: bool = True) -> TrainState:
        """Return the state on the CPU; with `environments`, it contains everything needed for resuming."""
        state = self.interaction.environments.snapshot(self.state) if environments else self.state
        return to_device(state, torch.device("cpu"))

    def close(self) -> None:
        """Close the environments."""
        self.interaction.environments.close()


def default_update(ctx: Engine, state: TrainState, trajectory: Trajectory) -> TrainState:
    """Update as an algorithm with only a loss does: take gradient steps on the collected trajectory."""
    evaluated = ctx.evaluate_policy(state, trajectory) if ctx.needs_policy_evaluation else None
    targets = ctx.estimate(state, trajectory, evaluated)
    batches = ctx.minibatches(state, trajectory, targets, evaluated)
    return ctx.steps(ctx.plan.algorithm.loss, state, batches)


def default_loop(ctx: Engine) -> Iterator[None]:
    """Collect and update in turn, for an algorithm without a `loop`."""
    default = Engine.whole_update if ctx.compiles_whole_updates else default_update
    update: Update = getattr(ctx.plan.algorithm, "update", None) or default
    meanwhile = getattr(ctx.plan.algorithm, "update_meanwhile", None)
    while ctx.running():
        if meanwhile:
            state, trajectory = ctx.collect_while(ctx.state, lambda state: meanwhile(ctx, state))
        else:
            state, trajectory = ctx.collect(ctx.state)
        ctx.state = update(ctx, state, trajectory)
        del state, trajectory  # or they would be in memory during the next collection
        yield


def rounds_of(ctx: Engine) -> Iterator[None]:
    """Return the rounds of the algorithm: of its `loop`, or of `default_loop`.

    A loop may be any callable that returns an iterator. Raises RunFailed if it returns something else, or acts in the
    environments before the first round, as a function without `yield` does.
    """
    name, loop = ctx.plan.config.algorithm, getattr(ctx.plan.algorithm, "loop", default_loop)
    ctx._starts_loop = True
    try:
        with ctx.watch.phase("update", f'algorithm "{name}"'):
            rounds = loop(ctx)
    except Cancelled:
        rounds = None
    finally:
        ctx._starts_loop = False
    if not isinstance(rounds, Iterator):
        raise no_generator_error(name)
    return rounds


def no_generator_error(algorithm: str) -> RunFailed:
    """Return the error for a loop that isn't a generator, or acts before its first iteration."""
    return RunFailed(
        f'algorithm "{algorithm}": loop must be a generator. Write `yield` at the end of each iteration, and collect '
        "only in iterations."
    )


def _problem_of(state: Any) -> str:
    """Return what is wrong with what an algorithm returns from init, as a clause; empty if nothing is."""
    if not isinstance(state, AlgorithmState):
        return f"what it returned is {_shortened(state)}"
    for field, tree in state._asdict().items():
        if not isinstance(tree, dict):
            return f"{field} is {_shortened(tree)}"
        for name, leaf in tree.items():
            if not isinstance(leaf, Tensor):
                return f'{field}["{name}"] is {_shortened(leaf)}'
    return ""


def _shortened(thing: Any) -> str:
    """Return what a thing is, in a few words."""
    if isinstance(thing, Tensor):
        return f"a tensor of shape {list(thing.shape)}"
    return "None" if thing is None else f"of type {type(thing).__name__}"


def _for_all(one: Params, members: int) -> Params:
    """Repeat one member's tensors for every member."""
    return {name: value.expand(members, *value.shape).clone() for name, value in one.items()}
