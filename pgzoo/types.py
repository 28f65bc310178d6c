"""The data of a run, and its shapes.

S members (independent seeds), T steps, N environments per member, B rows of a batch; O observation shape, A action
shape. Axes of per-step scalars are counted from the right: N is -1, T is -2, S is -3. S always exists, also for one
seed, so that there is one shape rule and no special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import gymnasium as gym

Params = dict[str, Tensor]
"""Named tensors; every leaf has the member axis first: `[S, ...]`."""

Metrics = dict[str, Tensor]
"""Slash-grouped names to `[S]` values."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Spec:
    """What one environment shows and takes.

    `observation_space` is what a policy sees, a Box or Discrete; the environment's `original_space` is another
    where it was flattened.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    original_space: gym.Space[Any]


@dataclass(frozen=True)
class Steps:
    """Collect a window of `count` steps from every environment; episodes run on from window to window."""

    count: int


@dataclass(frozen=True)
class Episodes:
    """Let every environment play `per_env` whole episodes, each from a fresh reset."""

    per_env: int = 1


Collection = Steps | Episodes


class Trajectory(NamedTuple):
    """What the world said, and nothing else: raw observations, raw rewards, actions as sampled.

    Shapes:
        obs: `[S, T+1, N, *O]`. `obs[:, t+1]` is what followed step t; at an end it is the true final observation.
        actions: `[S, T, N, *A]`, before any clipping.
        rewards, timestep: `[S, T, N]`; `timestep` counts steps since the episode began.
        terminated, truncated, valid: `[S, T, N]` bool. The step after an end only resets: `valid` is False there,
            and such rows count nowhere: their rewards and flags are zero, the rest is finite and means nothing.
        starts: `[S, T+1, N]` bool, True at the first step of an episode.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    starts: Tensor
    timestep: Tensor


class Targets(NamedTuple):
    """What an estimator makes of a trajectory: `advantages`, `returns`, `weights`, each `[S, T, N]`.

    `weights` is 1 where a row counts and 0 elsewhere.
    """

    advantages: Tensor
    returns: Tensor
    weights: Tensor


class Inputs(NamedTuple):
    """What a policy sees: `obs [S, T, B, *O]`."""

    obs: Tensor


class Batch(NamedTuple):
    """What a loss sees. Leaves are `[S, T, B, ...]`; T = 1 unless a policy needs sequences.

    Rows with weight 0 are padding. Reduce over (-2, -1) to get `[S]`, with `ops.losses`, whose sums don't depend on
    how much padding there is.
    """

    inputs: Inputs
    actions: Tensor
    timestep: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor


class Distribution(Protocol):
    """A distribution over actions with batch shape `[S, T, B]`."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-density of `actions [S, T, B, *A]`, summed over action dimensions: `[S, T, B]`, in nats."""
        ...

    def entropy(self) -> Tensor:
        """Entropy summed over action dimensions: `[S, T, B]`, in nats."""
        ...


class Output(NamedTuple):
    """What a policy says about a batch of inputs."""

    dist: Distribution


class Loss(NamedTuple):
    """A loss with something to report: `value [S]`, and `metrics` of `[S]` each (detached)."""

    value: Tensor
    metrics: Metrics


class Collector(NamedTuple):
    """What a `Steps` collection carries from one window to the next; arrays are `[S, N, ...]`.

    `ended` marks rows whose next step only resets; `timestep` and `returns` are those of the open episodes.
    """

    obs: Array
    ended: NDArray[np.bool_]
    starts: NDArray[np.bool_]
    timestep: NDArray[np.int64]
    returns: NDArray[np.float64]


class TrainState(NamedTuple):
    """Everything that changes while training; every leaf has the member axis first.

    `active [S]` is False once a member has reached its steps, met a stop rule or turned non-finite: from then on
    it is frozen, and the others go on unchanged. `progress [S]` is the share of its run, 0 to 1, that a member
    had done when the current update's collection began; schedules go by it.
    """

    params: Params
    optimizer: Params
    collector: Collector | None
    active: NDArray[np.bool_]
    env_steps: NDArray[np.int64]
    episodes: NDArray[np.int64]
    updates: NDArray[np.int64]
    progress: NDArray[np.float64]


class Hyper:
    """An algorithm's settings as a loss sees them: floats are `[S, 1, 1]` tensors, everything else is itself.

    `gamma`, which the run owns, is among them.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def rows(self, rows: slice) -> Hyper:
        """The settings of some members."""
        return Hyper({k: v[rows] if isinstance(v, Tensor) else v for k, v in vars(self).items()})

    def __getattr__(self, name: str) -> Any:  # only reached for names that are missing
        raise AttributeError(f'no setting "{name}"; there are: {", ".join(sorted(self.__dict__))}')
