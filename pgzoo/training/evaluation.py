"""Evaluate policies: whole episodes, with actions that are sampled or greedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgzoo.protocols import Policy, VectorEnv
from pgzoo.training.activity import Cancelled, Monitor
from pgzoo.training.behavior import Behavior, Greedy, Noise
from pgzoo.training.events import EvaluationMode
from pgzoo.training.rollout import ActiveRows, act, reset_all
from pgzoo.training.seeding import EVALUATION_ROOT, generator, reset_seeds
from pgzoo.training.tape import FinishedEpisodes, Tape, concatenate_episodes, episode_structure, finished_episodes
from pgzoo.types import Params

__all__ = ["Evaluation", "evaluate"]


class Evaluation(NamedTuple):
    """Returns and lengths of evaluation episodes, one array per member, and how many of them were cut, `[S]`.

    They are in the order of the states in which they started, which is the same for all policies and algorithms. An
    episode is cut when it reaches the limit of steps; it counts with its return and length up to there.
    """

    returns: tuple[NDArray[np.float64], ...]
    lengths: tuple[NDArray[np.int64], ...]
    cut: NDArray[np.int64]


def evaluate(
    envs: VectorEnv,
    count: int,
    policy: Policy,
    params: Params,
    *,
    seeds: Sequence[int],
    active: NDArray[np.bool_],
    episodes: int,
    mode: EvaluationMode,
    max_steps: int,
    monitor: Monitor | None = None,
) -> Evaluation:
    """Play `episodes` episodes per active member in `count` environments each, in rounds of one episode.

    Episode k starts in the same state for every member and algorithm; actions come from a random stream of the member's
    seed. All environments play the same number of episodes (in the last round, some play none), so that short episodes
    are not over-represented. An episode that has not ended after `max_steps` steps is cut there. If the monitor cancels
    the evaluation, the episodes of all completed rounds are returned.
    """
    monitor = monitor or Monitor()
    starts = reset_seeds(EVALUATION_ROOT, "evaluate", episodes)
    rounds: list[FinishedEpisodes] = []
    cut = np.zeros(len(seeds), np.int64)
    for k in range(0, episodes, count):
        at = np.resize(starts[k : k + count], count)  # in a shorter last round, surplus environments don't play
        quota = active[:, None] & (k + np.arange(count) < episodes)
        noise = Greedy() if mode == "greedy" else Noise(policy, [generator(s, "evaluate", k) for s in seeds], count)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                start = reset_all(envs, policy, np.tile(at, (len(seeds), 1)))
                rows = ActiveRows(envs, Behavior(policy, params, noise), start, quota.astype(np.int64))
                tape = Tape(rewards_only=True)
                steps = act(rows, tape, max_steps, monitor, whole_episodes=True)
        except Cancelled:
            break
        unfinished = np.zeros(quota.size, np.bool_)
        unfinished[rows.where] = rows.live
        if rows.playing:
            tape.arrays["truncated"][steps - 1] |= unfinished
            monitor.episodes += rows.count
            cut += unfinished.reshape(quota.shape).sum(1)
        rounds.append(finished_episodes(episode_structure(tape, steps, start, unfinished), start, by_row=True))
    return Evaluation(*concatenate_episodes(rounds, len(seeds)), cut)
