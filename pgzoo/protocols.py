"""What the parts of pgzoo ask of each other, as protocols: implement the methods, inherit nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pgzoo.types import (
    ActorInputs,
    Array,
    Batch,
    Collection,
    EnvRequest,
    Hyper,
    Inputs,
    LaunchRequest,
    Loss,
    Need,
    NoiseKind,
    Output,
    Params,
    Spec,
    StepResult,
    WorkerMessage,
)

__all__ = [
    "Actor",
    "Algorithm",
    "EnvBackend",
    "EnvState",
    "Launcher",
    "Listener",
    "Policy",
    "PolicyFactory",
    "ReturnEstimator",
    "VectorEnv",
]


class EnvState(Protocol):
    """Saves and restores where one environment stands, for a run that goes on later."""

    def fits(self, env: gym.Env[Any, Any]) -> bool:
        """Whether this one knows all that such an environment keeps beside its generator and its wrappers."""
        ...

    def get(self, env: gym.Env[Any, Any]) -> Any:
        """Return what it keeps as plain data: numbers, text, numpy's arrays, and lists, tuples and dicts of them."""
        ...

    def put(self, env: gym.Env[Any, Any], state: Any) -> None:
        """Put an environment that was reset once where another stood; it then goes on bit for bit as that one."""
        ...


class VectorEnv(Protocol):
    """Environments side by side, in NEXT_STEP autoreset.

    The observation that comes with an end flag is the true final one; the next step of that row ignores its action and
    returns the first observation of a new episode, reward 0 and no flags. What one row does depends on its own seed and
    actions alone, never on how many rows there are. `action_mask [rows, K]` is what each row allows now; it is a new
    array after every step, and None for an environment that forbids nothing.

    Environments that can be left and taken up again also have
        save() -> list | None: where each row stands, as plain data; None if that can't be told;
        restore(states): after a reset, puts every row where it stood; None leaves that row as it is.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    action_mask: NDArray[np.bool_] | None

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Begin a new episode in every row from its seed, `[rows] -> [rows, *O]`."""
        ...

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row. What rows outside `live [rows]` return is never read: they may be skipped."""
        ...

    def select(self, rows: NDArray[np.int64]) -> VectorEnv | None:
        """Return these rows alone, to be stepped in place of the whole until that is reset; None if it can't be."""
        ...

    def close(self) -> None:
        """Free what the environments hold."""
        ...


class EnvBackend(Protocol):
    """A way to run many copies of an environment; more than `width` of them per member gain nothing.

    A backend may also have
        preferred(request) -> bool: whether `auto` takes it, where it fits, before `sync`. The rows are those of one
            member here: the choice must not depend on how many there are;
        foreign = True: its environments are its own: it also runs ids that gymnasium can't make, if it is named.
    """

    width: int

    def fits(self, request: EnvRequest) -> str:
        """Return an empty string if this backend can run the environment, else the reason why not."""
        ...

    def open(self, request: EnvRequest) -> VectorEnv:
        """Make the environments. Box and Discrete observations come as they are, all others flattened."""
        ...


class Actor(Protocol):
    """Acts without gradients, on arrays."""

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, Array | None]:
        """Choose actions `[S, N, *A]` with `noise [S, N, K]`, the mode where that is None; and the memory after."""
        ...


class Policy(Protocol):
    """Maps observations to distributions over actions, for all members at once.

    `noise` names what one draw consumes, "uniform", "normal" or "logistic", and `noise_size` how many of them. A policy
    with memory says how many numbers it remembers per environment as `state_size`. One whose `apply` is the same short
    sequence of tensor operations for every batch says `compiles = True`.

    A policy may also have
        actor(params) -> Actor: acts faster than `apply` does, and agrees with it to rounding;
        buffers() -> Params: one member's tensors that are not learned by gradient, without the member axis;
        absorb(buffers, obs, valid) -> Params: those tensors after an update, given what was seen, `obs [S, T, N, *O]`.
    """

    noise: NoiseKind
    noise_size: int

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's fresh parameters, leaves without the member axis; a critic's begin with `critic.`."""
        ...

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Evaluate a batch: parameters (and buffers) `[S, ...]`, inputs `[S, T, B, ...]`. Pure."""
        ...

    def to_env(self, actions: Array) -> Array:
        """Turn actions `[..., *A]` into what the environment takes (clipped, shifted, reshaped)."""
        ...


class PolicyFactory(Protocol):
    """What a plugin registers as a policy: a class or function."""

    def __call__(self, config: Any, spec: Spec, needs: frozenset[Need]) -> Policy:
        """Build the policy for an environment, with what the algorithm and the estimator need of it.

        Raises:
            UnfitError: it can't serve these spaces, or has not what is needed.
        """
        ...


class ReturnEstimator(Protocol):
    """A pure function from a trajectory to returns or advantages `[S, T, N]`.

    It names by keyword what it takes, of: rewards, values, next_values, log_rhos, terminated, truncated, valid, starts,
    timestep, gamma, and the fields of its config. An argument with a default is passed where the run has it: one
    that takes `values` gets a critic made.

    A single result is an estimate of the return, from which a run with a critic subtracts its values; a pair is
    (advantages, returns). An estimator that makes no sense of parts of episodes has `whole_episodes = True`.
    """

    def __call__(self, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Estimate; every tensor is `[S, T, N]` (`starts` has T+1 steps) and `gamma` broadcasts."""
        ...


class Algorithm(Protocol):
    """Learns. There are three depths, each the one before with one thing opened.

        loss(policy, params, batch, hyper) -> Loss | Tensor     the engine does the rest
        update(ctx, state, trajectory) -> TrainState            the algorithm orders its own gradient steps
        loop(ctx) -> Iterator[None]                             and collects as it likes

    A loss is `[S]`, one number per member. A loop goes `while ctx.running(): ... yield`; what its next round needs lies
    in `ctx.state`, for a yield is where a run may be stopped and taken up again.

    `collect` is how to gather experience, `needs` what is needed for it (see `types.Need`); each may be a function of
    the algorithm's settings. `estimator` names the default return estimator. `defaults` presets run keys,
    e.g. `{"num_envs": 8}`. Settings named `epochs` and `minibatches` say how a loss goes through what was collected.

    Floats among its settings may differ between members: take them from `hyper`, or from the settings of
    `ctx.plan.members[s].config`; mark one that is read as one number for all members as `config.Static`.

    An algorithm that keeps tensors of its own has init(ctx) -> AlgorithmState: one member's, without the member axis.
    One that is not meant to learn says `learns = False`.
    """

    collect: Collection | Callable[[Any], Collection]
    estimator: str
    defaults: ClassVar[Mapping[str, Any]]

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Loss | Tensor:
        """The loss of a batch, `[S]`, one number per member."""
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

    A plugin registers the factory, which takes a `RunContext` and is called once per run. A hook takes `event`, a frozen
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
