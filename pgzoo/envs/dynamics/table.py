"""FrozenLake, CliffWalking and Taxi: environments that gymnasium describes by a table of transitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgzoo.errors import UnfitError
from pgzoo.types import Array, Dynamics

__all__ = ["dynamics"]


def dynamics(env: Any) -> Dynamics:
    """Return the dynamics of an environment with a table `P`, as gymnasium's toy text environments have.

    The constants are the numbers of states S, actions A and outcomes M; the cumulative distribution of the first state,
    `[S]`; the cumulative distribution of the outcomes, the next states, the rewards and the end flags, `[S, A, M]`
    each; and the action mask `[S, A]`, if there is one.
    """
    if getattr(env, "fickle_passenger", False):
        raise UnfitError("its dynamics are without fickle_passenger")
    states, actions = len(env.P), len(env.P[0])
    most = max(len(outcomes) for choices in env.P.values() for outcomes in choices.values())
    tables = np.zeros((4, states, actions, most))
    for state, choices in env.P.items():
        for action, outcomes in choices.items():
            rows = np.array([[float(value) for value in outcome] for outcome in outcomes]).T
            rows[0] = np.cumsum(rows[0])
            tables[:, state, action, : len(outcomes)] = rows
    parts = [np.array([states, actions, most]), np.cumsum(env.initial_state_distrib), tables.ravel()]
    masked = hasattr(env, "action_mask")
    if masked:
        parts.append(np.array([env.action_mask(state) for state in range(states)], np.float64).ravel())
    return Dynamics(
        size=1,
        reset=reset,
        step=step,
        observe=observe,
        read=lambda env: [env.s],
        mask=mask if masked else None,
        reset_randoms=1,
        step_randoms=1,
        constants=np.concatenate(parts),
    )


def reset(state: Array, random: Array, constants: Array) -> None:
    """Draw the first state."""
    states = int(constants[0])
    state[0] = draw(constants[3 : 3 + states], random[0])


def step(state: Array, action: int, random: Array, constants: Array) -> tuple[float, bool]:
    """Draw one of the outcomes."""
    states, actions, most = int(constants[0]), int(constants[1]), int(constants[2])
    size = states * actions * most
    first = 3 + states + (int(state[0]) * actions + action) * most
    at = first + draw(constants[first : first + most], random[0])
    state[0] = constants[at + size]
    return constants[at + 2 * size], constants[at + 3 * size] != 0.0


def draw(cumulative: Array, random: float) -> int:
    """Return the first index whose cumulative probability is above a random number; 0 if rounding leaves none."""
    for i in range(len(cumulative)):
        if cumulative[i] > random:
            return i
    return 0


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Show the state."""
    obs[0] = int(state[0])


def mask(state: Array, allowed: Array, constants: Array) -> None:
    """Allow what the table of masks allows."""
    states, actions, most = int(constants[0]), int(constants[1]), int(constants[2])
    first = 3 + states + 4 * states * actions * most + int(state[0]) * actions
    for k in range(actions):
        allowed[k] = constants[first + k] != 0.0
