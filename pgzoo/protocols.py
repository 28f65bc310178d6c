"""The interfaces between the parts of pgzoo, as protocols: implement the methods, don't inherit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.types import (
    ActorInputs,
    Array,
    Batch,
    EnvRequest,
    Hyper,
    Inputs,
    LaunchRequest,
    Loss,
    LossFunction,
    Need,
    NoiseKind,
    Output,
    Params,
    PolicyEvaluation,
    Spec,
    StepResult,
    Targets,
    TrainState,
    Trajectory,
    WorkerMessage,
)

if TYPE_CHECKING:
    from pgzoo.config import Member, RunConfig

__all__ = [
    "Actor",
    "Algorithm",
    "Diagnostic",
    "EnvBackend",
    "EnvState",
    "Launcher",
    "LearningPolicy",
    "Listener",
    "Policy",
    "PolicyFactory",
    "ReturnEstimator",
    "RunControl",
    "UpdateContext",
    "VectorEnv",
]


class EnvState(Protocol):
    """Saves and restores the state of one environment, so that a run can be resumed."""

    def fits(self, env: gym.Env[Any, Any]) -> bool:
        """Return whether this can save everything in `env`, except its random generator and its wrappers."""
        ...

    def get(self, env: gym.Env[Any, Any]) -> Any:
        """Return the state of `env` as numbers, strings and numpy arrays, in lists, tuples and dicts."""
        ...

    def put(self, env: gym.Env[Any, Any], state: Any) -> None:
        """Restore a saved state in an environment that was reset; it then continues as the saved one, bit for bit."""
        ...


class VectorEnv(Protocol):
    """Parallel environments, one per row, with gymnasium's NEXT_STEP autoreset.

    The observation returned with an end flag is the true final one; the next step of that row ignores its action and
    returns the first observation of a new episode, reward 0 and no flags. A row depends only on its seed and actions,
    never on the number of rows. `action_mask [rows, K]` holds the actions that each row currently allows; it is None
    for an environment without masks.

    `reset` and every `step` return new arrays, and set a new `action_mask`: a run keeps the earlier ones, so an array
    that was returned must not be written into.

    Environments that can be saved also have
        save() -> list | None: the state of each row as plain data; None if it can't be saved;
        restore(states): restore the state of each row after a reset; None leaves that row unchanged.

    Environments that can let a policy act in compiled code also have
        compile(policy): compile what they run, with the policy (`types.RowPolicy`, or None);
        collect(policy, left, noise, count, stored): act for `count` steps; see `envs.compiled.CompiledEnvs.collect`.

    Environments in which other processes act for whole windows also have
        rollout(behavior, start, quota, window, monitor): what `training.rollout.collect` does.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    action_mask: NDArray[np.bool_] | None

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every row from its seed, `[rows] -> [rows, *O]`."""
        ...

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row. Results of rows outside `live [rows]` are not used: these rows may be skipped."""
        ...

    def select(self, rows: NDArray[np.int64]) -> VectorEnv | None:
        """Return only these rows, to be stepped instead of all until the next reset; None if that isn't supported."""
        ...

    def close(self) -> None:
        """Release the resources of the environments."""
        ...


class EnvBackend(Protocol):
    """A way to run many copies of an environment.

    `width` is the number of copies per member above which it doesn't get faster.

    A backend may also have
        preferred(request) -> bool: whether `auto` chooses it over `sync`, if it fits. `request.rows` is the number of
            copies of one member, because the choice must not depend on the number of members;
        foreign = True: it creates its own environments, so if it is chosen by name it also runs ids that gymnasium
            can't create;
        sends_info = True: it returns the values of `request.info` in `StepResult.info`. Without it, requests that have
            such keys are not passed to the backend;
        takes_dynamics = True: it is created with a function that returns what is registered as the dynamics of an
            environment id (see `Registry.dynamics`), or None;
        wraps = True: it applies `request.wrappers` and `request.frame_stack`. Without it, requests that have them are
            not passed to the backend.
    """

    width: int

    def fits(self, request: EnvRequest) -> str:
        """Return an empty string if this backend can run the environment, else the reason why it can't."""
        ...

    def open(self, request: EnvRequest) -> VectorEnv:
        """Create the environments. Observations other than Box and Discrete are flattened."""
        ...


class Actor(Protocol):
    """Chooses actions without gradients, from numpy arrays."""

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, Array | None]:
        """Return actions `[S, N, *A]`, sampled with `noise [S, N, K]` (None: the mode), and the memory afterwards."""
        ...


class Policy(Protocol):
    """Maps observations to distributions over actions, for all members at once.

    `noise` is the distribution of the random numbers used to sample an action, and `noise_size` is how many numbers.
    A recurrent policy has `memory_size`, the number of floats in its memory per environment. A policy whose `apply` is
    the same short sequence of tensor operations for every batch may set `compiles = True`.

    A policy may also have
        noise_steps: the number of steps for which an environment's actions are sampled with the same noise, by default
            1; None: the whole collection. Every collection starts with new noise;
        actor(params) -> Actor: acts faster than `apply`, with results that are equal up to rounding;
        row_policy(params) -> RowPolicy | None: acts in the compiled loop of the backend `compiled`, with results that
            are equal up to rounding; None if its settings don't allow that. Which of both is returned must not depend
            on the number of members;
        buffers() -> Params: one member's tensors that are not learned by gradient, without the member axis;
        absorb(buffers, obs, valid) -> Params: updates the buffers with the observations `obs [S, T, N, *O]` of an
            update, using only those where `valid [S, T, N]` is True;
        without_effect: the names of its settings that have no effect for these spaces, needs and other settings, each
            with the reason, such as "has no critic". A run for which the user gave one of them is refused;
        footprint: the approximate numbers of its parameters, and of floats per row of a batch that a forward pass keeps
            for the backward pass. They are used to estimate the memory of a run with images.
    """

    noise: NoiseKind
    noise_size: int

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's initial parameters, without the member axis; a critic's names start with `critic.`."""
        ...

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch, as a pure function: parameters and buffers `[S, ...]`, inputs `[S, T, B, ...]`."""
        ...

    def to_env(self, actions: Array) -> Array:
        """Convert actions `[..., *A]` to the environment's action space, by clipping, shifting or reshaping."""
        ...


class PolicyFactory(Protocol):
    """A class or function that a plugin registers as a policy."""

    def __call__(self, config: Any, spec: Spec, needs: frozenset[Need]) -> Policy:
        """Return the policy for an environment, with the outputs that the algorithm and the estimator need.

        Raises:
            UnfitError: the policy doesn't support these spaces, or lacks something that is needed.
        """
        ...


class ReturnEstimator(Protocol):
    """A pure function from a trajectory to returns or advantages `[S, T, N]`.

    It takes any of these keyword arguments: rewards, values, next_values, log_rhos, terminated, truncated, valid,
    starts, timestep, gamma, obs, actions, info, and the fields of its config. An argument with a default is passed if
    the run provides it. If `values` or `next_values` has no default, the estimator requires a critic: if the algorithm
    trains none, the engine adds one and trains it in the algorithm's gradient steps (docs/estimators.md). An algorithm
    without gradient steps raises UnfitError.

    A single result is an estimate of the return, from which a run with a critic subtracts its values; a pair is
    (advantages, returns). An estimator that needs whole episodes has `whole_episodes = True`. One that needs values of
    the environment's info has an attribute such as `needs = {"info:cost"}`, and finds them in `info["cost"]`.

    Compiled runs may trace it once: what it reads besides its arguments then stays as it was.
    """

    def __call__(self, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Estimate; every tensor is `[S, T, N]` (`starts` has T+1 steps) and `gamma` broadcasts."""
        ...


class LearningPolicy(Protocol):
    """The policy as an algorithm and its losses see it.

    Unlike `Policy`, it takes all tensors of the members, `state.params | state.buffers`, and selects its own by name.
    """

    @property
    def memory_size(self) -> int:
        """Number of floats in the policy's memory per environment, the M of `Trajectory.memory`; 0 without memory."""
        ...

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's initial parameters under their names in `TrainState.params`, without the member axis."""
        ...

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch: `params` are all of the members' tensors `[S, ...]`, `inputs` are `[S, T, B, ...]`."""
        ...

    @property
    def vector_size(self) -> int:
        """Size of the vectors that `vectors` returns. Raises UnfitError if the observations are images."""
        ...

    def vectors(self, params: Params, inputs: Inputs) -> Tensor:
        """Return the observations of a batch as vectors, `[S, T, B, vector_size]`, for an algorithm's own networks.

        A Box is flattened, Discrete observations are one-hot encoded; with `--normalize-obs` they are normalized.
        """
        ...


class UpdateContext(Protocol):
    """The argument `ctx` of an algorithm's `init`, `update` and `loop`.

    Every method works on all S members at once. None changes a `TrainState`: methods that train return a new one, in
    which members that are not active are unchanged. A discarded state has no effect on later steps; its metrics are
    still reported.

    Shapes: S members, T steps, N environments per member, B rows of a batch, P parameters of a member.
    """

    state: TrainState
    """The current state of the run. A loop sets it in every round; an update receives it and returns the next."""

    # the run

    @property
    def settings(self) -> Any:
        """The algorithm's settings, an instance of its config class; those of the first member.

        Floats may differ between members, unless their type is marked as `config.Static`: take them from `hyper`, or
        from the settings of each of the `members`.
        """
        ...

    @property
    def algorithm(self) -> Any:
        """The algorithm itself."""
        ...

    @property
    def members(self) -> tuple[Member, ...]:
        """The S members. `members[s].config.settings` are the algorithm's settings for member s."""
        ...

    @property
    def config(self) -> RunConfig:
        """The configuration of the run: `config.gamma`, `config.total_steps`, ...; that of the first member."""
        ...

    @property
    def num_envs(self) -> int:
        """N, the number of environments per member."""
        ...

    @property
    def spec(self) -> Spec:
        """The observation space and the action space of the environment."""
        ...

    @property
    def info(self) -> tuple[str, ...]:
        """The keys of `trajectory.info`: those that the algorithm or the estimator needs."""
        ...

    @property
    def policy(self) -> LearningPolicy:
        """The policy. `policy.apply(params, batch.inputs)` takes all parameters and buffers, as in a loss."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the state, and of trajectories, targets and batches."""
        ...

    def running(self) -> bool:
        """Return whether any member still trains. A loop checks it in every round: `while ctx.running(): ... yield`."""
        ...

    # interaction with the environments

    def collect(self, state: TrainState, noise: Tensor | None = None) -> tuple[TrainState, Trajectory]:
        """Let the policy act in the environments, as specified by the algorithm's `collect`.

        Returns the state with updated counts of steps and episodes, and the trajectory `[S, T, N, ...]`.

        `noise [S, T, N, K]` are the numbers that actions are sampled with, K = `policy.noise_size` numbers of the kind
        `policy.noise` per action; so an algorithm can explore with noise that is correlated over time. By default,
        noise is drawn independently for every step (see `Policy`). Raises ValueError for another shape, and if whole
        episodes are collected.

        Each call in an update has its own noise, and its own episodes if they are whole. Metrics and diagnostics of an
        update belong to its last call; to learn after fewer steps, shorten the rollout.
        """
        ...

    def play(self, state: TrainState, candidates: Params, *index: int) -> tuple[TrainState, NDArray[np.float64]]:
        """Play one episode per environment with greedy actions, each with different parameters.

        `candidates` holds the parameters that differ, under their names in `state.params`, as `[S, N, ...]`. Returns
        the state with updated counts of steps and episodes, and the undiscounted returns `[S, N]`, NaN for members that
        are not active.

        Calls in one update with equal `index` start the same episodes: environment n has the same initial state in
        each. Calls with different `index`, for example `0`, `1`, ..., start different episodes.
        """
        ...

    def evaluate_policy(self, state: TrainState, trajectory: Trajectory) -> PolicyEvaluation:
        """Evaluate the policy with the parameters of `state` at every step of a trajectory, without gradients.

        Returns values `[S, T+1, N]` (None without a critic), log-probabilities `[S, T, N]` of the actions that were
        taken, and the distributions.
        """
        ...

    def estimate(
        self,
        state: TrainState,
        trajectory: Trajectory,
        evaluated: PolicyEvaluation | None = None,
        behavior: Tensor | None = None,
        bonus: Tensor | None = None,
    ) -> Targets:
        """Compute advantages, returns and weights with the run's return estimator, each `[S, T, N]`.

        `evaluated` has the critic's values. `behavior [S, T, N]`, for off-policy estimators, are the log-probabilities
        of the actions under the policy that collected them, if it differs from the policy of `evaluated`. `bonus
        [S, T, N]`, such as an entropy bonus, is added to the rewards after their normalization.
        """
        ...

    # batches

    def batch(self, trajectory: Trajectory, targets: Targets, evaluated: PolicyEvaluation | None = None) -> Batch:
        """Return the whole trajectory as one batch: `[S, 1, B]`, or sequences `[S, T, N]` for a policy with memory."""
        ...

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
        """Yield `count` minibatches per epoch, shuffled per member.

        The defaults are the settings `epochs` and `minibatches`, or 1 if the algorithm has none. `epochs` is the range
        of epoch indices that seed the shuffling: an algorithm that calls this several times in an update passes a
        different range each time. Leaves of `extra` are `[S, T, N, ...]` and become `batch.extra`.
        """
        ...

    # gradient steps

    def step(
        self,
        loss: LossFunction,
        state: TrainState,
        batch: Batch,
        only: str | tuple[str, ...] = "",
        learning_rates: Mapping[str, Tensor] | None = None,
    ) -> TrainState:
        """Return the state after one gradient step on `loss`, clipped to the maximum gradient norm per member.

        A member takes no step if it is not active, if the loss or its gradient is not finite (it fails at the end of
        the update), or if it was halted (see `Loss.halt`) by this step or by one that led to `state`.

        Args:
            loss: the function to minimize.
            state: the state to start from.
            batch: the argument of the loss.
            only: limits the step to parameters whose names start with it, e.g. "policy." or "critic.", or with any
                prefix of a tuple, e.g. ("policy.", "mine."). It may be empty: then all parameters learn.
            learning_rates: learning rates `[S]` of networks, by the start of the names of their parameters, e.g.
                `{"critic.": rate}`; the first that fits is used. Other parameters have the learning rate of
                `ctx.learning_rate(state)`.
        """
        ...

    def steps(
        self,
        loss: LossFunction,
        state: TrainState,
        batches: Iterable[Batch],
        only: str | tuple[str, ...] = "",
        learning_rates: Mapping[str, Tensor] | None = None,
    ) -> TrainState:
        """Return the state after a gradient step on each batch in turn: the same as a loop over `step`.

        In a compiled run it is faster than the loop, most of all with the iterator that `ctx.minibatches` returns.
        """
        ...

    def gradient(
        self, loss: LossFunction, state: TrainState, batch: Batch, only: str | tuple[str, ...] = ""
    ) -> tuple[Loss, Tensor]:
        """Return the loss and its gradient `[S, P]`, 0 for parameters whose names don't start with `only`.

        The parameters are in the order of `ops.optim.flatten(state.params.values())`.
        """
        ...

    def hvp(
        self, scalar: Callable[..., Tensor], state: TrainState, batch: Batch, only: str | tuple[str, ...] = ""
    ) -> Callable[[Tensor], Tensor]:
        """Return the function that multiplies vectors `[S, P]` by the Hessian of `scalar`, which returns `[S]`."""
        ...

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
        """Return the state with the parameters set to `vector [S, P]`, a step that the algorithm computed.

        `value [S]` and `gradient [S, P]` are those of the loss on `batch`. A member for which any of this is not finite
        keeps its parameters and fails at the end of the update. `metrics`, `[S]` each, are reported as those of a step.
        """
        ...

    def place(self, state: TrainState, vector: Tensor) -> TrainState:
        """Return the state with the parameters set to `vector [S, P]`, for algorithms without a gradient.

        A member for which `vector` is not finite keeps its parameters and fails at the end of the update.
        """
        ...

    # settings, randomness, metrics

    def hyper(self, state: TrainState) -> Hyper:
        """Return the settings as a loss sees them: floats are `[S, 1, 1]`."""
        ...

    def learning_rate(self, state: TrainState) -> Tensor:
        """Return the learning rate `[S]` of each member under its schedule."""
        ...

    def rng(self, stream: str, member: int, state: TrainState, *index: int) -> np.random.Generator:
        """Return a fresh generator for a member in this update; equal arguments give equal numbers.

        Use different `stream` names or indices for different purposes within an update.
        """
        ...

    def noise(
        self, stream: str, state: TrainState, shape: Sequence[int], *index: int, kind: NoiseKind = "normal"
    ) -> Tensor:
        """Return random numbers `[S, *shape]`, float32, each member's from `rng(stream, member, state, *index)`.

        `kind` is "normal" (standard normal), "uniform" (in [0, 1)) or "logistic".
        """
        ...

    def report(self, metrics: Mapping[str, Tensor | NDArray[Any]], members: Tensor | None = None) -> None:
        """Report metrics of this update, `[S]` each, under slash-grouped names such as "search/best_return".

        A metric that is reported several times in an update is averaged. `members [S]` (bool) marks the members whose
        values are used; by default all.
        """
        ...


class Algorithm(Protocol):
    """A learning algorithm. It implements one of three methods, from the simplest to the most general.

        loss(policy, params, batch, hyper) -> Loss | Tensor     the engine collects and takes gradient steps
        update(ctx, state, trajectory) -> TrainState            the algorithm takes its own gradient steps
        loop(ctx) -> Iterator[None]                             the algorithm also collects

    `ctx` is an `UpdateContext`. A loop has the form `while ctx.running(): ... yield`; everything that its next round
    needs must be in `ctx.state`, because a run may be saved and resumed at any yield.

    An algorithm may also have
        collect: `Steps` or `Episodes` to collect per update (default: windows of `rollout_steps` steps);
        needs: the outputs and data that it requires (see `types.Need`);
        estimator: the name of the default return estimator;
        defaults: default values of run settings, e.g. `{"num_envs": 8}`;
        init(ctx, rng) -> AlgorithmState: additional tensors of one member, without the member axis. It is called once
            per member, with that member's numpy generator. If it has a parameter named `params`, it also gets the
            initial parameters of that member's policy, under their names in `TrainState.params`; so a target network
            can start as a copy of the policy;
        update_meanwhile(ctx, state) -> TrainState: called in each round of the default loop before `update`, while
            rollout workers (`--rollout-workers`) collect the next trajectory with the parameters from before;
        learns = False: if it doesn't train the policy;
        known_exceptions: the conformance checks that it fails on purpose, each with the reason (docs/testing.md).
    `collect` and `needs` may be functions of the algorithm's settings. The settings `epochs` and `minibatches`
    determine how often, and in how many parts, the default update passes over the collected data.

    A loss depends on its arguments only: in a compiled run, what it reads elsewhere stays as it was in the first step.

    Floats among its settings may differ between members: take them from `hyper`, or from the settings of
    `ctx.members[s].config`; mark a setting that is read as one number for all members as `config.Static`.
    """

    estimator: str
    defaults: ClassVar[Mapping[str, Any]]

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss | Tensor:
        """Return the loss of a batch, `[S]`, one number per member."""
        ...


class Launcher(Protocol):
    """A class or function that a plugin registers as a launcher. It is called once per run."""

    def __call__(self, request: LaunchRequest) -> Generator[WorkerMessage] | None:
        """Return None to train all seeds in this process, as one computation.

        Otherwise return a generator. Its first `next` splits the request and starts a worker for each shard; the
        generator then yields their messages and returns when all workers have exited. Closing it earlier kills them.
        """
        ...


class Diagnostic(Protocol):
    """Measures something about the training of a run and changes nothing.

    A plugin registers the class; `--diagnostics NAME` creates it once per run. It may also have
        fits(plan) -> str: an empty string if it can measure a run with this `Plan`, else the reason why it can't.
    """

    def measure(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> Tensor | Mapping[str, Tensor]:
        """Return one number per member, `[S]`, or several by name.

        They are reported as `diagnostic/NAME`, or `diagnostic/NAME/KEY`. It is called after every K-th update
        (`--diagnostics-every K`), with the last trajectory of the update and the state that collected it. Of `ctx` it
        may use what doesn't change the run: the run's properties, `algorithm`, `evaluate_policy`, `estimate`, `batch`,
        `minibatches`, `gradient`, `hvp`, `hyper`, `learning_rate`, `rng` and `noise`.
        """
        ...


class RunControl(Protocol):
    """The argument `control` of an event hook and of a callback: asks the run for something.

    It acts on the seeds that are trained in the listener's process: all of them with the launcher `local`, those of one
    worker with `processes`. A callback of `pgzoo.run` and a listener registered with `display=True` act on all seeds of
    the run. The methods may be called from any thread.
    """

    def stop(self, reason: str, members: Sequence[int] | None = None) -> None:
        """End members (indices; None: all) with the status "stopped" and this reason.

        A stop requested in `pgzoo_episodes_finished` ends the members with the update that has just been completed, one
        requested in a later hook ends them with the next update. Their last parameters are evaluated and saved as
        at the end of any run.

        Raises:
            ValueError: there is no member of such an index.
        """
        ...

    def evaluate(self) -> None:
        """Request an evaluation of all active members after the current update."""
        ...

    def save(self) -> None:
        """Request a checkpoint of all members after the current update."""
        ...


class Listener(Protocol):
    """What the factory of a listener returns: an object with any of these event hooks, each marked `@pgzoo.hookimpl`.

    A plugin registers the factory, which takes a `RunContext` and is called once per run. A hook may take `event`, an
    object from `pgzoo.training.events` (`RunStarted` for `pgzoo_run_started`), and `control`, a `RunControl`. Its
    result is ignored. A listener whose hook raises is detached with a warning, and the run continues.

    A listener may also have
        snapshot(member) -> Any: plain JSON data for the checkpoint of a member (an index). In a resumed run the factory
            finds it in `context.resumed[member]`.
        close() -> None: called once after the last event, to end threads and connections. After a second Ctrl-C, there
            is no event RunEnded before it.
    """

    def pgzoo_run_started(self, event: Any) -> None:
        """Called once, before anything is collected."""
        ...

    def pgzoo_episodes_finished(self, event: Any) -> None:
        """Called after each update, before `pgzoo_update_done`, with the episodes that ended while it collected."""
        ...

    def pgzoo_update_done(self, event: Any) -> None:
        """Called after each update of the parameters, with its metrics."""
        ...

    def pgzoo_evaluated(self, event: Any) -> None:
        """Called after each evaluation."""
        ...

    def pgzoo_checkpoint_saved(self, event: Any) -> None:
        """Called after checkpoints of some members were written."""
        ...

    def pgzoo_run_ended(self, event: Any) -> None:
        """Called once, at the end of a run that finished, stopped, failed or was interrupted."""
        ...
