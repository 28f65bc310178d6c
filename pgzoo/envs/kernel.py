"""The loops of the backend `compiled`: templates for `ops.jit.specialize`, which gives them an environment's dynamics.

The functions `reset`, `step`, `observe` and `mask` are those of `types.Dynamics`; `forward` and `choose` those of
`types.RowPolicy`. Every row has a stream of random numbers: its 64 bits change with each episode, and the numbers that
an episode uses are addressed by their index. So no row depends on another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pgzoo.ops.normalize import CLIP
from pgzoo.types import Array

__all__ = ["apply_rows", "collect_rows", "guard", "no_mask", "step_rows", "unguard"]

FORBIDDEN = np.float32(-1e9)
"""As in `ops.families`."""
GUARD = 77


def reset(state: Array, random: Array, constants: Array) -> None:
    """Stand for the environment's function."""


def step(state: Array, action: Any, random: Array, constants: Array) -> tuple[float, bool]:
    """Stand for the environment's function."""
    return 0.0, False


def observe(state: Array, obs: Array, constants: Array) -> None:
    """Stand for the environment's function."""


def mask(state: Array, allowed: Array, constants: Array) -> None:
    """Stand for the environment's function."""


def no_mask(state: Array, allowed: Array, constants: Array) -> None:
    """Do nothing: the mask of an environment without action masks."""


def forward(obs: Array, weights: Array, sizes: Array, scratch: Array, outputs: Array) -> None:
    """Stand for the policy's function."""


def choose(
    outputs: Array, scale: Array, bounds: Array, noise: Array, greedy: bool, stored: Array, action: Array
) -> Any:
    """Stand for the policy's function."""


def mix(x: np.uint64) -> np.uint64:
    """SplitMix64's output function (Steele, Lea & Flood 2014): a good hash of 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def fill(random: Array, stream: np.uint64, first: int) -> None:
    """Fill `random` with the numbers of a stream from the index `first` on, uniform in [0, 1)."""
    for i in range(len(random)):
        word = mix(stream + np.uint64(first + i))
        random[i] = np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def step_rows(
    state: Array,
    streams: Array,
    steps: Array,
    ended: Array,
    live: Array,
    limit: int,
    constants: Array,
    reset_random: Array,
    step_random: Array,
    actions: Array,
    obs: Array,
    rewards: Array,
    terminated: Array,
    truncated: Array,
    allowed: Array,
) -> None:
    """Take one step in every live row: a reset where the episode has ended.

    The rows are given by `state [rows, size]`, the random stream, the number of steps in the episode, and whether it
    has `ended`, so that the next step resets; all are changed in place. `live` are the rows to step, `limit` is the
    maximum length of an episode, `constants` are those of the dynamics. `reset_random` and `step_random` are working
    memory for random numbers. `actions` are `[rows]` for a Discrete action space, else `[rows, A]`.

    The results are written into the other arguments, `[rows, ...]`, whose rewards and flags are 0 before.
    """
    for row in range(len(state)):
        if not live[row]:
            continue
        if ended[row]:
            streams[row] = mix(streams[row])
            fill(reset_random, streams[row], 1)
            reset(state[row], reset_random, constants)
            steps[row], ended[row] = 0, False
        else:
            fill(step_random, streams[row], 1 + len(reset_random) + steps[row] * len(step_random))
            rewards[row], terminated[row] = step(state[row], actions[row], step_random, constants)
            steps[row] += 1
            truncated[row] = steps[row] >= limit
            ended[row] = terminated[row] or truncated[row]
        observe(state[row], obs[row], constants)
        mask(state[row], allowed[row], constants)


def apply_rows(
    state: Array,
    resets: Array,
    reset_random: Array,
    step_random: Array,
    constants: Array,
    actions: Array,
    obs: Array,
    rewards: Array,
    terminated: Array,
    allowed: Array,
) -> None:
    """Reset or step every row with given random numbers, `[rows, R]`, to test dynamics.

    `resets [rows]` are the rows to reset; the other arguments are as in `step_rows`, but that `state`, `obs` and
    `allowed` are what `guard` returns for their rows.
    """
    for row in range(len(resets)):
        at = 2 * row + 1
        if resets[row]:
            reset(state[at], reset_random[row], constants)
        else:
            rewards[row], terminated[row] = step(state[at], actions[row], step_random[row], constants)
        observe(state[at], obs[at], constants)
        mask(state[at], allowed[at], constants)


def guard(rows: Array) -> Array:
    """Return a copy of `rows` with a row of known values before, between and after them, `[2 rows + 1, ...]`."""
    guarded = np.full((2 * len(rows) + 1, *rows.shape[1:]), GUARD).astype(rows.dtype)
    guarded[1::2] = rows
    return guarded


def unguard(guarded: Array) -> tuple[Array, bool]:
    """Return the rows in what `guard` returned, and whether the values around them are unchanged."""
    return guarded[1::2], bool((guarded[::2] == np.array(GUARD).astype(guarded.dtype)).all())


def collect_rows(
    state: Array,
    streams: Array,
    steps: Array,
    ended: Array,
    left: Array,
    limit: int,
    constants: Array,
    reset_random: Array,
    step_random: Array,
    weights: Array,
    sizes: Array,
    scale: Array,
    bounds: Array,
    moments: Array,
    features: Array,
    scratch: Array,
    outputs: Array,
    action: Array,
    noise: Array,
    greedy: bool,
    count: int,
    obs: Array,
    actions: Array,
    rewards: Array,
    valid: Array,
    terminated: Array,
    truncated: Array,
    allowed: Array,
) -> tuple[int, int, int]:
    """Act for `count` steps in every row, or until it has played the episodes that it has `left [rows]`.

    The first nine arguments are as in `step_rows`, the next five as in `types.RowPolicy`. `features`, `scratch`,
    `outputs` and `action` are working memory. `noise` is `[count, rows, R]`; it is ignored if actions are `greedy`. The
    others are written, `[count + 1, rows, ...]` each, all 0 before except for the first observations and masks.

    Returns the number of steps until no row had episodes left (at most `count`), the sum of the rows' steps, and the
    number of episodes that ended.
    """
    rows, most, total, episodes = len(state), 0, 0, 0
    clip = np.float32(CLIP)
    for row in range(rows):
        member = row * len(weights) // rows
        over, done, quota = ended[row], 0, left[row]
        while done < count and quota > 0:
            if over:
                streams[row] = mix(streams[row])
                fill(reset_random, streams[row], 1)
                reset(state[row], reset_random, constants)
                steps[row], over = 0, False
            else:
                valid[done, row] = True
                for i in range(len(features)):
                    features[i] = obs[done, row, i]
                for i in range(moments.shape[2]):
                    scaled = (features[i] - moments[0, member, i]) / moments[1, member, i]
                    features[i] = -clip if scaled < -clip else clip if scaled > clip else scaled
                forward(features, weights[member], sizes, scratch, outputs)
                for k in range(allowed.shape[2]):
                    if not allowed[done, row, k]:
                        outputs[k] = FORBIDDEN
                draws = noise[0 if greedy else done, row]
                chosen = choose(outputs, scale[member], bounds, draws, greedy, actions[done, row], action)
                fill(step_random, streams[row], 1 + len(reset_random) + steps[row] * len(step_random))
                reward, end = step(state[row], chosen, step_random, constants)
                steps[row] += 1
                cut = steps[row] >= limit
                rewards[done, row], terminated[done, row], truncated[done, row] = reward, end, cut
                if end or cut:
                    over = True
                    quota -= 1
                    episodes += 1
            done += 1
            observe(state[row], obs[done, row], constants)
            mask(state[row], allowed[done, row], constants)
        ended[row], left[row] = over, quota
        most = max(most, done)
        total += done
    return most, total, episodes
