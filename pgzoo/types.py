"""The data of a run, and its shapes.

A member is one seed of a run (in a sweep: one seed with one set of settings). All members are trained together, but
independently of each other.

S members, T steps, N environments per member, B rows of a batch; O observation shape, A action shape. Axes of per-step
scalars are counted from the right: N is -1, T is -2, S is -3. The axis S is present even for one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import gymnasium as gym

    from pgzoo.config import RunConfig

Params = dict[str, Tensor]
"""Named tensors; every leaf has the member axis first: `[S, ...]`."""

Metrics = dict[str, Tensor]
"""Slash-grouped names to `[S]` values."""

Array = NDArray[Any]

Asked = Any
"""A tensor or distribution if the algorithm needs it (see `Need`), else None."""


@dataclass(frozen=True)
class Spec:
    """The spaces of an environment.

    `observation_space`, Box or Discrete, is that of the policy's inputs. It differs from the environment's
    `original_space` if that is flattened, or packed (`ops.entries.PackedSpace`), or its type changes, such as that of
    categories to int64 (`ops.entries.array_space`). `masked` is True for an environment
    that provides action masks, `time_limited` for one that is known to truncate episodes after some number of steps.
    `dropped` are the entries of its Dict observations that no policy can learn from, such as "mission (Text)";
    `original_space` doesn't contain them. `seeded` is False for an environment whose episodes are known not to follow
    from the seed of a reset.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    original_space: gym.Space[Any]
    masked: bool = False
    time_limited: bool = False
    dropped: tuple[str, ...] = ()
    seeded: bool = True


@dataclass(frozen=True)
class Steps:
    """Collect a window of `count` steps from every environment; episodes continue from window to window."""

    count: int


@dataclass(frozen=True)
class Episodes:
    """Collect `per_env` whole episodes from every environment, each from a fresh reset."""

    per_env: int = 1


Collection = Steps | Episodes

NoiseKind = Literal["uniform", "normal", "logistic"]

RECENT = 100
"""Number of training episodes for the mean return in stop rules."""

Need = Literal["value", "aux_value", "shift", "action_values", "own_values", "log_probs", "old"]
"""What an algorithm may need besides a distribution over actions.

From the policy: "value" (a critic), "aux_value" (a second value head that shares the policy's layers), "shift" (a
distribution whose mean can be shifted), "action_values" (the distribution "epsilon-greedy", whose parameters are action
values; the values of states are their maxima). "own_values" declares that the algorithm has a critic of its own, and
passes its values to `ctx.estimate`. In every batch: "log_probs" and "old", the log-probabilities and the
distribution under the parameters that collected the data.

A need "info:KEY", such as "info:cost", is a number that the environment returns in the info of every step. It is in
`trajectory.info[KEY]` and `batch.info[KEY]`.
"""

INFO = "info:"
"""Prefix of a need that names a value in the info of the environment's steps."""


class Trajectory(NamedTuple):
    """Collected experience, unprocessed: raw observations, raw rewards, actions as sampled.

    Shapes:
        obs: `[S, T+1, N, *O]`. `obs[:, t+1]` followed step t; at an episode's end it is the true final observation.
        actions: `[S, T, N, *A]`, before any clipping.
        rewards, timestep: `[S, T, N]`; `timestep` counts steps since the start of the episode.
        terminated, truncated, valid: `[S, T, N]` bool. `valid` is False for the step after an end, which only resets:
            its reward and flags are zero, all other values are finite and have no meaning.
        starts: `[S, T+1, N]` bool, True at the first step of an episode, before which the policy's memory is reset.
        action_mask: `[S, T+1, N, K]` bool, the allowed actions; None for an environment without masks.
        memory: `[S, N, M]`, the policy's recurrent state before the first step; None for a policy without memory.
        info: `[S, T, N]` float32, values from the info of each step, by key: those that the run needs ("info:KEY" in
            `Need`), 0 where `valid` is False; None if it needs none.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    starts: Tensor
    timestep: Tensor
    action_mask: Tensor | None = None
    memory: Tensor | None = None
    info: dict[str, Tensor] | None = None


class PolicyEvaluation(NamedTuple):
    """A policy evaluated at every step of a trajectory, without gradients.

    Shapes:
        values: `[S, T+1, N]`, `values[:, t]` that of `obs[:, t]`; None without a critic.
        log_probs: `[S, T, N]`, of the actions that were taken.
        dist: batch shape `[S, T, N]`.
    """

    values: Tensor | None
    log_probs: Tensor
    dist: Distribution


class Targets(NamedTuple):
    """Targets for learning: `advantages`, `returns` and `weights`, each `[S, T, N]`.

    `weights` is 1 for valid steps and 0 for others.
    """

    advantages: Tensor
    returns: Tensor
    weights: Tensor


class Inputs(NamedTuple):
    """The inputs of a policy.

    Shapes:
        obs: `[S, T, B, *O]`.
        action_mask: `[S, T, B, K]` bool, the allowed actions; None if all are.
        memory, starts: `[S, B, M]` before the first step and `[S, T, B]` bool, for a policy with memory; else None.
    """

    obs: Tensor
    action_mask: Tensor | None = None
    memory: Tensor | None = None
    starts: Tensor | None = None


class ActorInputs(NamedTuple):
    """The inputs of an actor in one step: like `Inputs`, but arrays without the axis T, `[S, N, ...]`."""

    obs: Array
    action_mask: Array | None = None
    memory: Array | None = None
    starts: NDArray[np.bool_] | None = None


class Batch(NamedTuple):
    """The data of a gradient step. Leaves are `[S, T, B, ...]`; T = 1 unless the policy needs sequences.

    Rows with weight 0 are padding. Reduce over (-2, -1) to `[S]` with `ops.losses`, whose sums don't depend on the
    amount of padding. `values` (None without a critic), `log_probs` and `old` come from the parameters that collected
    the data, the last two only if the algorithm needs them; `extra` are tensors that the algorithm added. `info` holds
    the values of the environment's info that the run needs ("info:KEY" in `Need`), by key.
    """

    inputs: Inputs
    actions: Tensor
    timestep: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor
    values: Asked = None
    log_probs: Asked = None
    old: Asked = None
    extra: dict[str, Tensor] | None = None
    info: dict[str, Tensor] | None = None


class Distribution(Protocol):
    """A distribution over actions with batch shape `[S, T, B]`; all its tensors have that shape first.

    A policy without a method `actor` acts by two more methods of its distribution, which return numpy arrays
    `[S, T, B, *A]`:
        draw(noise) -> Array: actions sampled with `noise [S, T, B, noise_size]`;
        mode() -> Array: the most likely actions.
    """

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-density of `actions [S, T, B, *A]`, summed over action dimensions: `[S, T, B]`, in nats."""
        ...

    def entropy(self) -> Tensor:
        """Return the entropy, summed over action dimensions: `[S, T, B]`, in nats."""
        ...

    def kl(self, other: Any) -> Tensor:
        """Return KL(self || other) for another distribution of the same kind: `[S, T, B]`, in nats."""
        ...

    def map(self, fn: Callable[[Tensor], Tensor]) -> Distribution:
        """Apply `fn` to each of its tensors."""
        ...


class Output(NamedTuple):
    """The outputs of a policy for a batch.

    `value` and `aux_value` are `[S, T, B]` if needed, else None; `memory [S, B, M]` is that after the last step.
    """

    dist: Distribution
    value: Asked = None
    memory: Tensor | None = None
    aux_value: Asked = None


class Loss(NamedTuple):
    """A loss: `value [S]`, and `metrics` to report, `[S]` each.

    Members marked in `halt [S]` (bool) take neither this step nor later ones of the update.
    """

    value: Tensor
    metrics: Metrics
    halt: Tensor | None = None


LossFunction = Callable[[Any, Params, Batch, "Hyper"], Loss | Tensor]
"""`(policy, params, batch, hyper) -> Loss`, or just the value `[S]`; see `protocols.Algorithm.loss`."""


class Collector(NamedTuple):
    """Where the next window of a `Steps` collection starts; arrays are `[S, N, ...]`.

    `ended` marks environments whose next step only resets; `timestep` and `returns` are those of unfinished episodes,
    `memory` is the policy's.
    """

    obs: Array
    ended: NDArray[np.bool_]
    starts: NDArray[np.bool_]
    timestep: NDArray[np.int64]
    returns: NDArray[np.float64]
    action_mask: NDArray[np.bool_] | None = None
    memory: Array | None = None


class TrainState(NamedTuple):
    """Everything that changes while training; every leaf has the member axis first.

    Attributes:
        params, buffers: tensors that are learned by gradient, and others: normalizers, coefficients, tensors of the
            algorithm. Names start with `policy.`, `critic.`, `reward.`, `stop.` or a prefix of the algorithm.
        active: `[S]`; False once a member has completed its steps, met a stop rule or become non-finite. From then on
            it is frozen, while the others continue to train.
        progress: `[S]`; the fraction of its run, 0 to 1, that a member has completed at the start of the current
            update. Schedules depend on it.
        recent: `[S, 100]`; the returns of the last training episodes, newest last, padded with NaN before 100 episodes.
        environments: only in checkpoints: the saved environments of each member as plain data; None if they can't be
            saved.
        halted: `[S]` bool; members that take no further step in the current update (see `Loss.halt`). None at the start
            of each update.
    """

    params: Params
    buffers: Params
    optimizer: Params
    collector: Collector | None
    active: NDArray[np.bool_]
    env_steps: NDArray[np.int64]
    episodes: NDArray[np.int64]
    updates: NDArray[np.int64]
    progress: NDArray[np.float64]
    recent: NDArray[np.float64]
    environments: tuple[Any, ...] | None = None
    halted: Tensor | None = None


class AlgorithmState(NamedTuple):
    """Tensors of an algorithm besides the policy's: `params` are learned by gradient with it, `buffers` are not."""

    params: Params
    buffers: Params


class Hyper:
    """An algorithm's settings as a loss sees them: floats are `[S, 1, 1]` tensors, everything else is unchanged.

    `hyper.clip_range` broadcasts over the rows of a batch, `[S, T, B]`; `hyper.per_member.clip_range` is the same
    setting as `[S]`, for values that are already reduced. The settings include the run's `gamma`, and `remaining`, the
    fraction of its run that each member still has to do (1 at the start, 0 at the end), for schedules.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    @property
    def per_member(self) -> PerMember:
        """The same settings with floats as `[S]` tensors."""
        return PerMember(self)

    def rows(self, rows: slice) -> Hyper:
        """Return the settings of the members `rows`."""
        return Hyper({k: v[rows] if isinstance(v, Tensor) else v for k, v in vars(self).items()})

    def __getattr__(self, name: str) -> Any:  # only reached for names that are missing
        raise AttributeError(f'no setting "{name}"; there are: {", ".join(sorted(self.__dict__))}')


class PerMember:
    """The settings of a `Hyper` with floats as `[S]` tensors."""

    def __init__(self, hyper: Hyper) -> None:
        self._hyper = hyper

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._hyper, name)
        return value.flatten() if isinstance(value, Tensor) else value


class EnvRequest(NamedTuple):
    """An environment, and the total number of copies, `rows`.

    `states` (see `protocols.EnvState`) may save and restore one. `masked` is True if the environment is known to
    provide action masks in at least some steps: then `VectorEnv.action_mask` is never None. `wrappers`, named
    `module:Class`, are applied in this order, and after them one that stacks the last `frame_stack` observations (0:
    none). `info` are the keys of the info of a step whose values `StepResult.info` has to contain. `make` is the class
    or function that makes the environment, if a run was given one instead of an id: others may have the same id.
    """

    id: str
    kwargs: Mapping[str, Any]
    max_episode_steps: int | None
    rows: int
    states: tuple[Any, ...] = ()
    masked: bool = False
    wrappers: tuple[str, ...] = ()
    frame_stack: int = 0
    info: tuple[str, ...] = ()
    make: Callable[..., Any] | None = None

    @property
    def wrapped(self) -> bool:
        """Whether the run puts wrappers around the environment."""
        return bool(self.wrappers or self.frame_stack)


@dataclass(frozen=True, eq=False)
class Dynamics:
    """The dynamics of an environment as plain functions of one row, which the backend `compiled` compiles with numba.

    The functions take numpy arrays and write their results into them. They may use numbers, arrays, `math`, numpy
    functions of numbers, and functions of their own module that do the same; no other Python objects. Time limits,
    resets after an end and random numbers are not their business.

    Attributes:
        size: the number of values of the state, `state [size]` float64.
        reset: `(state, random, constants)`: sets the state to that of a new episode. `random [reset_randoms]` are
            independent numbers, uniform in [0, 1).
        step: `(state, action, random, constants) -> (reward, terminated)`: advances the state by one step. `action` is
            an int for a Discrete action space, else an array `[A]`; `random [step_randoms]` as for `reset`.
        observe: `(state, obs, constants)`: writes the observation of a state into `obs [O]`, which has the dtype of
            the observation space, flattened; a Discrete observation into `obs[0]`.
        read: `environment -> state`: the state of gymnasium's environment as `size` numbers. Only the conformance kit
            calls it, to compare both step by step; it isn't compiled.
        mask: `(state, allowed, constants)`: writes into `allowed [K]` (bool) which actions are allowed; None for an
            environment without action masks.
        reset_randoms, step_randoms: how many random numbers `reset` and `step` take.
        constants: numbers that the functions use, such as settings or a table of transitions: `[C]` float64.
        draws: `(generator, count)`: the numbers in [0, 1) that correspond to the next `count` random numbers that
            gymnasium's environment takes from its generator. Like `read`, only for the conformance kit. By default
            those of `generator.random`, which `generator.uniform` scales.
    """

    size: int
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observe: Callable[..., Any]
    read: Callable[[Any], Any]
    mask: Callable[..., Any] | None = None
    reset_randoms: int = 0
    step_randoms: int = 0
    constants: Array = field(default_factory=lambda: np.zeros(0))
    draws: Callable[[np.random.Generator, int], Any] = np.random.Generator.random


class RowPolicy(NamedTuple):
    """How a policy acts, as plain functions of one row, which the compiled collector compiles with numba.

    Attributes:
        forward: `(obs [O], weights [P], sizes, scratch [2, width], outputs [K])`: computes the outputs of the network.
            `obs` is float32, a category a whole number.
        choose: `(outputs [K], scale, bounds, noise [R], greedy, stored [A], action [A])`: draws an action, or takes the
            mode; writes it into `stored` as the trajectory holds it, and returns that for the environment: an int for a
            Discrete action space, else `action`. The logits of forbidden actions are -1e9 in `outputs`.
        weights: `[S, P]` float32, each member's parameters.
        sizes: whole numbers that describe the network to `forward`.
        scale: `[S, A]` float32, each member's standard deviations, or `[S, 0]`.
        bounds: of the action space, for `choose`.
        stored: zeros in the shape and dtype in which the trajectory holds one action.
        width: the size of `scratch`, working memory of `forward`.
        outputs: K.
        moments: `[2, S, O]` float32, mean and standard deviation by which observations are standardized before
            `forward`; `[2, S, 0]`: they aren't.
    """

    forward: Callable[..., Any]
    choose: Callable[..., Any]
    weights: NDArray[np.float32]
    sizes: NDArray[np.int64]
    scale: NDArray[np.float32]
    bounds: NDArray[np.float64]
    stored: Array
    width: int
    outputs: int
    moments: NDArray[np.float32]


class StepResult(NamedTuple):
    """The result of a step: `obs [rows, *O]`, `rewards [rows]`, `terminated [rows]` and `truncated [rows]`.

    `info` holds the values of the keys `EnvRequest.info`, `[rows]` each, with any value in rows that were only reset;
    None if there are no such keys.
    """

    obs: Array
    rewards: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    info: Mapping[str, Array] | None = None


class Shard(NamedTuple):
    """The seeds of a run that one worker trains. `spec` is a line of JSON, the worker's first line of input.

    `verifies` is the index of the shard whose results this shard repeats, in order to compare them: train it on another
    machine if there is one. None for all other shards.
    """

    seeds: tuple[int, ...]
    spec: str
    verifies: int | None = None


class WorkerMessage(NamedTuple):
    """A message about the worker of a shard, given by the shard's index.

    `kind` is "stdout" or "stderr" for a line that the worker wrote there, without the line break; or "exited" when the
    worker has ended; `text` then describes how, for the user. "exited" is the last message about a worker.
    """

    shard: int
    kind: str
    text: str


@dataclass(frozen=True)
class LaunchRequest:
    """A run whose seeds a launcher may train in worker processes.

    `split(count)` returns at most `count` shards of the run, and after them the shards that verify some of these, if
    the run asks for it (`config.verify`). `command` starts a worker in the current folder and
    environment: it reads the shard's `spec` from standard input and writes lines to standard output. Call `commands()`
    several times a second, and write the lines that it returns to the standard input of every worker. When its standard
    input ends, a worker stops with the status "interrupted": keep it open until this process ends.

    `restart(index)` returns a shard again whose worker has died. Another worker that is started with it continues its
    seeds from their last checkpoints. Instead of a message "exited" about the dead worker, the messages of the new one
    follow.
    """

    config: RunConfig
    command: tuple[str, ...]
    split: Callable[[int], tuple[Shard, ...]]
    commands: Callable[[], Sequence[str]]
    restart: Callable[[int], Shard]
