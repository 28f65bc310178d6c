"""How a policy acts: with which parameters, and with which noise its actions are sampled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgzoo.ops.acting import noise_steps
from pgzoo.ops.draws import draw_noise
from pgzoo.protocols import Policy
from pgzoo.types import Array, Params

__all__ = ["NOISE_BLOCK", "Behavior", "GivenNoise", "Greedy", "Noise", "received_noise", "sendable_noise"]

NOISE_BLOCK = 64
"""Steps for which noise is drawn at once: drawing it for each step would cost more than acting."""


class Noise:
    """The noise that actions are sampled with, `[S, N, K]` per step, each member's from its own generator.

    A policy with `noise_steps` other than 1 gets the same noise for that many steps (None: in the whole collection).
    Each generator is used for one collection only, so a member's noise doesn't depend on how long the others play.
    """

    def __init__(
        self, policy: Policy, generators: list[np.random.Generator], num_envs: int, steps: int | None = None
    ) -> None:
        """`steps` is the number of steps that will be taken, if it is known."""
        self.generators = generators
        self._kind, self._hold = policy.noise, noise_steps(policy)
        block = min(NOISE_BLOCK, steps or NOISE_BLOCK) if self._hold == 1 else 1
        self._shape = (block, num_envs, policy.noise_size)
        self._block: Array = np.empty(0)

    def __getitem__(self, t: int) -> Array:
        """Return the noise of step t; steps must be asked for in order."""
        draw, remainder = (0, t) if self._hold is None else divmod(t, self._hold)
        k = draw % self._shape[0]
        if k == 0 and remainder == 0:
            draws = [draw_noise(self._kind, generator, self._shape) for generator in self.generators]
            self._block = np.stack(draws, axis=1)  # [block, S, N, K]
        return self._block[k]  # type: ignore[no-any-return]

    def steps(self, t: int, count: int) -> Array:
        """Return the noise of the next `count` steps, `[count, S, N, K]`, for a policy that holds no noise.

        It is the same noise that these steps have one after the other. `t` isn't used: each generator goes on where it
        is.
        """
        shape = count, *self._shape[1:]
        return np.stack([draw_noise(self._kind, generator, shape) for generator in self.generators], axis=1)

    def select(self, members: NDArray[np.int64]) -> None:
        """Draw noise only for these members from the next step on."""
        self.generators = [self.generators[member] for member in members]
        self._block = self._block[:, members]


class GivenNoise:
    """In place of `Noise`: the noise of every step is given, `[T, S, N, K]`."""

    def __init__(self, noise: Array) -> None:
        self.noise = noise

    def __getitem__(self, t: int) -> Array:
        """Return the noise of step t."""
        return self.noise[t]  # type: ignore[no-any-return]

    def steps(self, t: int, count: int) -> Array:
        """Return the noise of `count` steps from step t on, `[count, S, N, K]`."""
        return self.noise[t : t + count]

    def select(self, members: NDArray[np.int64]) -> None:
        """Keep the noise of these members only."""
        self.noise = self.noise[:, members]


class Greedy:
    """In place of `Noise`: actions are the mode of the policy's distribution."""

    def __getitem__(self, t: int) -> None:
        """Return None for every step."""

    def steps(self, t: int, count: int) -> None:
        """Return None for any number of steps."""

    def select(self, members: NDArray[np.int64]) -> None:
        """Do nothing."""


class Behavior(NamedTuple):
    """How to act: a policy, its parameters (and buffers) under its own names, and the noise to sample with."""

    policy: Policy
    params: Params
    noise: Noise | GivenNoise | Greedy


def sendable_noise(noise: Noise | GivenNoise | Greedy) -> list[np.random.Generator] | Array | None:
    """Return what another process needs to make the same noise; `noise` must be unused."""
    match noise:
        case Noise():
            return noise.generators
        case GivenNoise():
            return noise.noise
    return None


def received_noise(
    sent: list[np.random.Generator] | Array | None, policy: Policy, num_envs: int, steps: int | None
) -> Noise | GivenNoise | Greedy:
    """Return the noise that `sendable_noise` was given; the other arguments are those of `Noise`."""
    if sent is None:
        return Greedy()
    return Noise(policy, sent, num_envs, steps) if isinstance(sent, list) else GivenNoise(sent)
