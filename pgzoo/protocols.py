"""The interfaces between the parts of pgzoo, as protocols: implement the methods, don't inherit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
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
    "EnvBackend",
    "EnvState",
    "Launcher",
    "LearningPolicy",
    "Listener",
    "Policy",
    "PolicyFactory",
    "ReturnEstimator",
    "UpdateContext",
    "VectorEnv",
]


class EnvState(Protocol):
    """Saves and restores the state of one environment, so that a run can be resumed."""

    def fits(self, env: gym.Env[Any, Any]) -> bool:
        """Return whether this can save everything in `env`, apart from its random generator and its wrappers."""
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
    returns the first observation of a new episode, reward 0 and no flags. A row depends on its own seed and actions
    alone, never on the number of rows. `action_mask [rows, K]` holds the actions that each row currently allows; it is
    a new array after every step, and None for an environment without masks.

    Environments that can be saved also have
        save() -> list | None: the state of each row as plain data; None if it can't be saved;
        restore(states): restore the state of each row after a reset; None leaves that row unchanged.
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
    """A way to run many copies of an environment. More than `width` copies per member don't make it faster.

    A backend may also have
        preferred(request) -> bool: whether `auto` chooses it over `sync`, if it fits. `request.rows` are those of one
            member, because the choice must not depend on the number of members;
        foreign = True: its environments are its own: it also runs ids that gymnasium can't make, if it is named;
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

    `noise` is the distribution of the random numbers that sampling an action takes, and `noise_size` how many it takes.
    A recurrent policy has `memory_size`, the number of floats that it remembers per environment. A policy whose `apply`
    is the same short sequence of tensor operations for every batch may set `compiles = True`.

    A policy may also have
        actor(params) -> Actor: acts faster than `apply`, and agrees with it to rounding;
        buffers() -> Params: one member's tensors that are not learned by gradient, without the member axis;
        absorb(buffers, obs, valid) -> Params: the buffers after an update that collected `obs [S, T, N, *O]`, of which
            the steps `valid [S, T, N]` count.
    """

    noise: NoiseKind
    noise_size: int

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's initial parameters, without the member axis. Names of a critic's begin with `critic.`."""
        ...

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch, as a pure function: parameters and buffers `[S, ...]`, inputs `[S, T, B, ...]`."""
        ...

    def to_env(self, actions: Array) -> Array:
        """Convert actions `[..., *A]` to the environment's action space, by clipping, shifting or reshaping."""
        ...


class PolicyFactory(Protocol):
    """What a plugin registers as a policy: a class or function."""

    def __call__(self, config: Any, spec: Spec, needs: frozenset[Need]) -> Policy:
        """Return the policy for an environment, with the outputs that the algorithm and the estimator need.

        Raises:
            UnfitError: the policy doesn't support these spaces, or lacks something that is needed.
        """
        ...


class ReturnEstimator(Protocol):
    """A pure function from a trajectory to returns or advantages `[S, T, N]`.

    It names by keyword what it takes, of: rewards, values, next_values, log_rhos, terminated, truncated, valid, starts,
    timestep, gamma, and the fields of its config. An argument with a default is passed where the run has it. Where
    `values` or `next_values` has none, the run has a critic: if the algorithm learns none, the engine adds one and
    trains it in the algorithm's gradient steps (docs/estimators.md). An algorithm without gradient steps is refused.

    A single result is an estimate of the return, from which a run with a critic subtracts its values; a pair is
    (advantages, returns). An estimator that makes no sense of parts of episodes has `whole_episodes = True`.
    """

    def __call__(self, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Estimate; every tensor is `[S, T, N]` (`starts` has T+1 steps) and `gamma` broadcasts."""
        ...


class LearningPolicy(Protocol):
    """The policy as an algorithm and its losses see it.

    Unlike `Policy`, it takes all of a member's tensors, `state.params | state.buffers`, and finds its own among them by
    name.
    """

    @property
    def memory_size(self) -> int:
        """Numbers that the policy remembers per environment, the M of `Trajectory.memory`; 0 without memory."""
        ...

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's initial parameters under their names in `TrainState.params`, without the member axis."""
        ...

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch: `params` are all of the members' tensors `[S, ...]`, `inputs` are `[S, T, B, ...]`."""
        ...


class UpdateContext(Protocol):
    """What an algorithm's `init`, `update` and `loop` are given as `ctx`.

    Every method works on all S members at once. None changes a `TrainState`: methods that train return a new one, in
    which members that are not active are unchanged. A state that you throw away has no effect on later steps, only its
    metrics stay in the report of the update.

    Shapes: S members, T steps, N environments per member, B rows of a batch, P parameters of a member.
    """

    state: TrainState
    """The current state of the run. A loop replaces it in every round; an update is given it and returns the next."""

    # the run

    @property
    def settings(self) -> Any:
        """The algorithm's settings, an instance of its config class; those of the first member.

        Floats may differ between members, unless their type is marked as `config.Static`: take them from `hyper`, or
        from the settings of each of the `members`.
        """
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
    def policy(self) -> LearningPolicy:
        """The policy. `policy.apply(params, batch.inputs)` takes all parameters and buffers, as in a loss."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the state, and of trajectories, targets and batches."""
        ...

    def running(self) -> bool:
        """Return whether any member still trains. A loop asks before every round: `while ctx.running(): ... yield`."""
        ...

    # experience

    def collect(self, state: TrainState) -> tuple[TrainState, Trajectory]:
        """Let the policy act in the environments, as the algorithm's `collect` says.

        Returns the state, in which steps and episodes are counted, and the trajectory `[S, T, N, ...]`.
        """
        ...

    def play(self, state: TrainState, candidates: Params) -> tuple[TrainState, NDArray[np.float64]]:
        """Let every environment play one episode with parameters of its own, by the most likely actions.

        `candidates` holds the parameters that differ, under their names in `state.params`, as `[S, N, ...]`. Returns
        the state, in which steps and episodes are counted, and the undiscounted returns `[S, N]`, NaN for members that
        are not active.
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
    ) -> Targets:
        """Let the run's return estimator compute advantages, returns and weights, each `[S, T, N]`.

        `evaluated` gives it the critic's values. `behavior [S, T, N]` are the log-probabilities under the policy that
        acted, for off-policy estimators, where that isn't the policy of `evaluated`.
        """
        ...

    # batches

    def batch(self, trajectory: Trajectory, targets: Targets, evaluated: PolicyEvaluation | None = None) -> Batch:
        """Return everything as one batch: `[S, 1, B]`, or sequences `[S, T, N]` for a policy with memory."""
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
        """Yield `count` minibatches per epoch, shuffled per member; by default as the settings say.

        The defaults are the settings `epochs` and `minibatches`, or 1 where the algorithm has none. `epochs` are the
        indices of the epochs, which the shuffling depends on: an algorithm that calls this several times in an
        update passes a different range each time. Leaves of `extra` are `[S, T, N, ...]` and come as `batch.extra`.
        """
        ...

    # gradient steps

    def step(self, loss: LossFunction, state: TrainState, batch: Batch, only: str = "") -> TrainState:
        """Return the state after one gradient step on `loss`, clipped to the maximum gradient norm per member.

        A member takes no step if it is not active, if the loss or its gradient is not finite (it fails at the end of
        the update), or if it was halted (see `Loss.halt`) by this step or by one that led to `state`. With `only`, the
        step is limited to parameters whose names begin so, e.g. "policy." or "critic.".
        """
        ...

    def gradient(self, loss: LossFunction, state: TrainState, batch: Batch, only: str = "") -> tuple[Loss, Tensor]:
        """Return the loss and its gradient `[S, P]`, 0 for parameters whose names don't begin with `only`.

        The parameters are in the order of `ops.optim.flatten(state.params.values())`.
        """
        ...

    def hvp(
        self, scalar: Callable[..., Tensor], state: TrainState, batch: Batch, only: str = ""
    ) -> Callable[[Tensor], Tensor]:
        """Return the function that multiplies vectors `[S, P]` by the Hessian of `scalar`, `[S]` as a loss is."""
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
        """Return the state with the parameters at `vector [S, P]`, for steps that the algorithm computes itself.

        `value [S]` and `gradient [S, P]` are those of the loss on `batch`. A member for which any of this is not finite
        keeps its parameters and fails at the end of the update. `metrics`, `[S]` each, are reported as those of a step.
        """
        ...

    def place(self, state: TrainState, vector: Tensor) -> TrainState:
        """Return the state with the parameters at `vector [S, P]`, for algorithms without a gradient.

        A member for which it is not finite keeps its parameters and fails at the end of the update.
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

        `stream` and `index` tell uses within an update from each other.
        """
        ...

    def report(self, metrics: Mapping[str, Tensor | NDArray[Any]], members: Tensor | None = None) -> None:
        """Report metrics of this update, `[S]` each, under slash-grouped names such as "search/best_return".

        A metric that is reported several times in an update is averaged. `members [S]` (bool) says for which members
        the values count; by default for all.
        """
        ...


class Algorithm(Protocol):
    """A learning algorithm. It implements one of three methods, from the least work to the most control.

        loss(policy, params, batch, hyper) -> Loss | Tensor     the engine does the rest
        update(ctx, state, trajectory) -> TrainState            the algorithm takes its own gradient steps
        loop(ctx) -> Iterator[None]                             the algorithm also collects

    `ctx` is an `UpdateContext`. A loop has the form `while ctx.running(): ... yield`; whatever its next round needs
    must be in `ctx.state`, because a run may be saved and resumed at any yield.

    `collect` is how to gather experience (without it: windows of the setting `rollout_steps`), `needs` what is needed
    for it (see `types.Need`); each may be a function of the algorithm's settings. `estimator` names the default return
    estimator. `defaults` presets run keys, e.g. `{"num_envs": 8}`. Settings named `epochs` and `minibatches` say how a
    loss goes through what was collected.

    Floats among its settings may differ between members: take them from `hyper`, or from the settings of
    `ctx.members[s].config`; mark one that is read as one number for all members as `config.Static`.

    An algorithm that keeps tensors of its own has init(ctx, rng) -> AlgorithmState: one member's, without the member
    axis. It is called once per member, with that member's own numpy generator, so that networks of its own start
    differently in every seed.
    One that is not meant to learn says `learns = False`.
    """

    estimator: str
    defaults: ClassVar[Mapping[str, Any]]

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss | Tensor:
        """Return the loss of a batch, `[S]`, one number per member."""
        ...


class Launcher(Protocol):
    """What a plugin registers as a launcher: a class or function, called once per run."""

    def __call__(self, request: LaunchRequest) -> Generator[WorkerMessage] | None:
        """Return None to train all seeds in this process, as one computation.

        Otherwise return a generator. Its first `next` splits the request and starts a worker for each shard; the
        generator then yields their messages and returns when all workers have exited. Closing it earlier kills them.
        """
        ...


class Listener(Protocol):
    """What the factory of a listener returns: an object with any of these event hooks, each marked `@pgzoo.hookimpl`.

    A plugin registers the factory, which takes a `RunContext` and is called once per run. A hook takes `event`, an
    object from `pgzoo.training.events` (`RunStarted` for `pgzoo_run_started`), or no argument. What it returns is
    ignored. A listener whose hook raises is detached with a warning, and the run continues.

    A listener may also have
        snapshot(member) -> Any: plain JSON data for the checkpoint of a member (an index). In a resumed run the factory
            finds it in `context.resumed[member]`.
    """

    def pgzoo_run_started(self, event: Any) -> None:
        """Called once, before anything is collected."""
        ...

    def pgzoo_episodes_finished(self, event: Any) -> None:
        """Called after each collection, with the episodes that ended in it, if any."""
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
        """Called once, last, whether the run finished, stopped, failed or was interrupted."""
        ...
