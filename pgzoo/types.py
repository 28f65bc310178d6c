"""The data of a run, and its shapes.

S members (independent seeds), T steps, N environments per member, B rows of a batch; O observation shape, A action
shape. Axes of per-step scalars are counted from the right: N is -1, T is -2, S is -3. S always exists, also for one
seed, so that there is one shape rule and no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
"""A tensor (or distribution) where it was asked for, see `Need`; else None."""


@dataclass(frozen=True)
class Spec:
    """What one environment shows and takes.

    `observation_space` is what a policy sees, a Box or Discrete; the environment's `original_space` is another
    where it was flattened. `masked` says that the environment tells with every observation which actions it allows.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    original_space: gym.Space[Any]
    masked: bool = False


@dataclass(frozen=True)
class Steps:
    """Collect a window of `count` steps from every environment; episodes run on from window to window."""

    count: int


@dataclass(frozen=True)
class Episodes:
    """Let every environment play `per_env` whole episodes, each from a fresh reset."""

    per_env: int = 1


Collection = Steps | Episodes

NoiseKind = Literal["uniform", "normal", "logistic"]

RECENT = 100
"""Training episodes over which a stop rule takes its mean."""

Need = Literal["value", "aux_value", "shift", "log_probs", "old"]
"""What an algorithm may ask for beside actions and their log-probabilities.

Of the policy: "value" (a critic), "aux_value" (a second value, on the policy's own layers), "shift" (a distribution
whose mean can be moved). Of the engine, in the batch: "log_probs" and "old", the log-probabilities and the
distribution under the parameters that collected.
"""


class Trajectory(NamedTuple):
    """What the world said, and nothing else: raw observations, raw rewards, actions as sampled.

    Shapes:
        obs: `[S, T+1, N, *O]`. `obs[:, t+1]` is what followed step t; at an end it is the true final observation.
        actions: `[S, T, N, *A]`, before any clipping.
        rewards, timestep: `[S, T, N]`; `timestep` counts steps since the episode began.
        terminated, truncated, valid: `[S, T, N]` bool. The step after an end only resets: `valid` is False there,
            and such rows count nowhere: their rewards and flags are zero, the rest is finite and means nothing.
        starts: `[S, T+1, N]` bool, True at the first step of an episode: the policy's memory is reset before it.
        action_mask: `[S, T+1, N, K]` bool, what was allowed; None for an environment that forbids nothing.
        memory: `[S, N, M]`, the policy's recurrent state before the first step; None for a policy without memory.
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


class PolicyEvaluation(NamedTuple):
    """What a policy says of a trajectory, step by step, without gradients.

    Shapes:
        values: `[S, T+1, N]`; `values[:, t+1]` is that of what followed step t. None without a critic.
        log_probs: `[S, T, N]`, of the actions that were taken.
        dist: batch shape `[S, T, N]`.
    """

    values: Tensor | None
    log_probs: Tensor
    dist: Distribution


class Targets(NamedTuple):
    """What an estimator makes of a trajectory: `advantages`, `returns`, `weights`, each `[S, T, N]`.

    `weights` is 1 where a row counts and 0 elsewhere.
    """

    advantages: Tensor
    returns: Tensor
    weights: Tensor


class Inputs(NamedTuple):
    """What a policy sees.

    Shapes:
        obs: `[S, T, B, *O]`.
        action_mask: `[S, T, B, K]` bool, or None where everything is allowed.
        memory, starts: `[S, B, M]` before the first step and `[S, T, B]` bool, for a policy with memory; else None.
    """

    obs: Tensor
    action_mask: Tensor | None = None
    memory: Tensor | None = None
    starts: Tensor | None = None


class ActorInputs(NamedTuple):
    """What an actor sees in one step: arrays as in `Inputs`, without the axis T: `[S, N, ...]`."""

    obs: Array
    action_mask: Array | None = None
    memory: Array | None = None
    starts: NDArray[np.bool_] | None = None


class Batch(NamedTuple):
    """What a loss sees. Leaves are `[S, T, B, ...]`; T = 1 unless a policy needs sequences.

    Rows with weight 0 are padding. Reduce over (-2, -1) to get `[S]`, with `ops.losses`, whose sums don't depend on
    how much padding there is. `values` (None without a critic), `log_probs` and `old` are what the parameters that
    collected said, the last two only where the algorithm needs them; `extra` is what it added itself.
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


class Distribution(Protocol):
    """A distribution over actions with batch shape `[S, T, B]`; all its tensors have that shape first."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-density of `actions [S, T, B, *A]`, summed over action dimensions: `[S, T, B]`, in nats."""
        ...

    def entropy(self) -> Tensor:
        """Entropy summed over action dimensions: `[S, T, B]`, in nats."""
        ...

    def kl(self, other: Any) -> Tensor:
        """Divergence KL(self || other) from another of the same kind: `[S, T, B]`, in nats."""
        ...

    def map(self, fn: Callable[[Tensor], Tensor]) -> Distribution:
        """Apply `fn` to each of its tensors."""
        ...


class Output(NamedTuple):
    """What a policy says about a batch of inputs.

    `value` and `aux_value` are `[S, T, B]` where they are needed; `memory [S, B, M]` is that after the last step.
    """

    dist: Distribution
    value: Asked = None
    memory: Tensor | None = None
    aux_value: Asked = None


class Loss(NamedTuple):
    """A loss with something to report: `value [S]`, and `metrics` of `[S]` each (detached).

    Members marked in `halt [S]` (bool) don't take this step, nor any other of the update that starts from its result.
    """

    value: Tensor
    metrics: Metrics
    halt: Tensor | None = None


LossFunction = Callable[[Any, Params, Batch, "Hyper"], Loss | Tensor]
"""`(policy, params, batch, hyper) -> Loss`, or just the value `[S]`; see `protocols.Algorithm.loss`."""


class Collector(NamedTuple):
    """What a `Steps` collection carries from one window to the next; arrays are `[S, N, ...]`.

    `ended` marks rows whose next step only resets; `timestep` and `returns` are those of the open episodes,
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

    `params` are learned by gradient, `buffers` otherwise: normalizers, coefficients, what an algorithm keeps. Names
    begin with `policy.`, `critic.`, `reward.`, `stop.` or the owner's own word.
    `active [S]` is False once a member has reached its steps, met a stop rule or turned non-finite: from then on
    it is frozen, and the others go on unchanged. `progress [S]` is the share of its run, 0 to 1, that a member
    had done when the current update's collection began; schedules go by it. `recent [S, 100]` are the returns of the
    last training episodes, the newest last, NaN before there were so many. `environments` is set in checkpoints alone:
    per member its saved environments as plain data, None where they can't be saved. `halted [S]` (bool) marks
    members that take no further step in the current update (see `Loss.halt`); None at the start of each update.
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
    """What an algorithm keeps beside the policy: `params` are learned by gradient with it, `buffers` are not."""

    params: Params
    buffers: Params


class Hyper:
    """An algorithm's settings as a loss sees them: floats are `[S, 1, 1]` tensors, everything else is unchanged.

    `hyper.clip_range` broadcasts over the rows of a batch, `[S, T, B]`; `hyper.per_member.clip_range` is the same
    setting as `[S]`, to combine with numbers that are already reduced. The settings include the run's `gamma`, and
    `remaining`, the share of its run that each member has yet to do (1 at the start, 0 at the end), for schedules.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    @property
    def per_member(self) -> PerMember:
        """The same settings with floats as `[S]` tensors."""
        return PerMember(self)

    def rows(self, rows: slice) -> Hyper:
        """The settings of some members."""
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
    """Which environment, and how many copies: `rows` = members times environments per member.

    `states` (see `protocols.EnvState`) may save and restore one. `masked` says that the environment is known to send
    action masks, with some of its steps at least: then `VectorEnv.action_mask` is never None.
    """

    id: str
    kwargs: Mapping[str, Any]
    max_episode_steps: int | None
    rows: int
    states: tuple[Any, ...] = ()
    masked: bool = False


class StepResult(NamedTuple):
    """`obs [rows, *O]`, `rewards [rows]`, `terminated [rows]` and `truncated [rows]`."""

    obs: Array
    rewards: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Shard(NamedTuple):
    """The seeds of a run that one worker trains. `spec` is a line of JSON, the worker's first line of input."""

    seeds: tuple[int, ...]
    spec: str


class WorkerMessage(NamedTuple):
    """A message about the worker of a shard, given by the shard's index.

    `kind` is "stdout" or "stderr" for a line that the worker wrote there, without the line break; or "exited" when the
    worker has ended, and then `text` says how, for the user. "exited" is the last message about a worker.
    """

    shard: int
    kind: str
    text: str


@dataclass(frozen=True)
class LaunchRequest:
    """A run whose seeds a launcher may train in worker processes.

    `split(count)` returns at most `count` shards of the run. `command` starts a worker in the current folder and
    environment: it reads the shard's `spec` from standard input and writes lines to standard output. Call `commands()`
    several times a second, and write the lines that it returns to the standard input of every worker. A worker stops as
    interrupted when its standard input ends: keep it open as long as this process lives, and no longer.
    """

    config: RunConfig
    command: tuple[str, ...]
    split: Callable[[int], tuple[Shard, ...]]
    commands: Callable[[], Sequence[str]]
