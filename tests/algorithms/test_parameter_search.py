"""SNES and EGGROLL: one generation with given returns instead of episodes, checked against hand calculations.

And what all searches have in common.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.algorithms.eggroll import perturbations
from pgzoo.algorithms.snes import utilities
from pgzoo.errors import ConfigError, UnfitError
from pgzoo.ops.optim import flatten
from pgzoo.types import Params, TrainState


class Played:
    """A substitute for `ctx.play` that records the candidates as vectors `[S, N, P]`, and returns the given returns."""

    def __init__(self, *returns: list[float]) -> None:
        self.returns = np.array(returns)

    def __call__(self, state: TrainState, candidates: Params) -> tuple[TrainState, Any]:
        self.vectors = torch.cat([leaf.flatten(2) for leaf in candidates.values()], -1).numpy()
        return state, self.returns


def one_update(engine: Any, algorithm: str, played: Played, **settings: Any) -> tuple[Any, Any, TrainState]:
    members, num_envs = played.returns.shape
    ctx = engine(algorithm, env="probe/Bandit-v0", seeds=members, num_envs=num_envs, policy="linear", **settings)
    ctx.play = played
    before = ctx.state
    next(ctx.plan.algorithm.loop(ctx))
    return ctx, flatten(before.params.values()).numpy(), ctx.state


def test_utilities_match_hand_calculations() -> None:
    raw = np.array([math.log(3), math.log(3 / 2), 0.0, 0.0])  # max(0, ln(4/2 + 1) - ln k) for the ranks k
    by_rank = raw / raw.sum() - 1 / 4
    assert utilities(np.array([5.0, 3.0, -1.0, 0.0])) == pytest.approx(by_rank[[0, 1, 3, 2]])
    assert utilities(np.array([0.0, 9.0, 9.0, 0.0])) == pytest.approx(
        [by_rank[2:].mean(), by_rank[:2].mean(), by_rank[:2].mean(), by_rank[2:].mean()]
    )
    assert utilities(np.full(7, 3.0)) == pytest.approx(np.zeros(7), abs=1e-12)


def test_snes_moves_the_mean_and_the_standard_deviations(engine: Any) -> None:
    played = Played([1.0, 4.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0])
    settings = {"init_std": 0.5, "mean_rate": 0.7, "std_rate": 0.3}
    _, before, state = one_update(engine, "snes", played, **settings)
    after, std = flatten(state.params.values()).numpy(), state.buffers["snes.std"].numpy()
    s = (played.vectors[0] - before[0]) / 0.5
    u = utilities(np.array([1.0, 4.0, 2.0, 3.0]))[:, None]
    assert after[0] == pytest.approx(before[0] + 0.7 * 0.5 * (u * s).sum(0), abs=1e-5)
    assert std[0] == pytest.approx(0.5 * np.exp(0.5 * 0.3 * (u * (s**2 - 1)).sum(0)), abs=1e-5)
    assert after[1] == pytest.approx(before[1], abs=1e-6)  # all candidates are equally good
    assert std[1] == pytest.approx(np.full_like(std[1], 0.5))


def test_eggroll_steps_along_perturbations_with_high_returns(engine: Any) -> None:
    played = Played([3.0, 1.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0])
    _, before, state = one_update(engine, "eggroll", played, learning_rate=0.8, noise_std=0.25)
    after = flatten(state.params.values()).numpy()
    noise = (played.vectors[0] - before[0]) / 0.25
    assert noise[:2] == pytest.approx(-noise[2:], abs=1e-5)
    # the standardized returns are 1, -1, -1, 1
    assert after[0] - before[0] == pytest.approx(0.8 / 4 * (noise[0] - noise[1] - noise[2] + noise[3]), abs=1e-5)
    assert after[1] == pytest.approx(before[1])


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_perturbations_of_matrices_have_low_rank_and_unit_variance(rank: int) -> None:
    drawn = perturbations(np.random.default_rng(0), [(6, 5), (5,)], 4000, rank)
    matrices, biases = drawn[:, :30].reshape(-1, 6, 5), drawn[:, 30:]
    assert all(np.linalg.matrix_rank(one) == rank for one in matrices[:20])
    assert matrices.mean() == pytest.approx(0.0, abs=0.02) and matrices.std() == pytest.approx(1.0, abs=0.05)
    assert biases.shape == (4000, 5) and biases.std() == pytest.approx(1.0, abs=0.05)
    assert np.linalg.matrix_rank(matrices[:8].sum(0)) == 5  # the sum of low-rank perturbations has full rank


@pytest.mark.parametrize("name", ["ars", "cem", "snes", "eggroll"])
def test_a_search_leaves_the_standard_deviation_of_actions_unchanged(play: Any, name: str) -> None:
    """Greedy episodes don't depend on it, so a search would change it at random."""
    ended = play(name, "probe/Target-v0", seeds=2, num_envs=4, total_steps=60, eval_episodes=1)[-1]
    begun = play(name, "probe/Target-v0", seeds=2, num_envs=4, total_steps=1, eval_episodes=1)[-1]
    assert ended.state.updates[0] > begun.state.updates[0]
    assert ended.state.params["policy.log_std"].tolist() == [[-5.0]] * 2
    assert not ended.state.params["policy.weight.0"].equal(begun.state.params["policy.weight.0"])


@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("--normalize-reward", {"normalize_reward": True}),
        ("--gamma", {"gamma": 0.9}),
        ("--estimator", {"estimator": "gae"}),
        ("--estimator", {"estimator": {"name": "gae", "lam": 0.5}}),
        ("--compile on", {"compile": "on"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["ars", "cem", "snes", "eggroll", "random"])
def test_settings_without_effect_are_refused(plan: Any, name: str, option: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UnfitError, match=f'Algorithm "{name}" takes no gradient steps .* {option} would .* Remove it'):
        plan(name, **settings)


@pytest.mark.parametrize(("name", "swept"), [("cem", "elite, extra_std"), ("random", "none")])
def test_gamma_cannot_be_swept(plan: Any, name: str, swept: str) -> None:
    with pytest.raises(ConfigError, match=f'"gamma" has one value for all members. .* can be swept: {swept}'):
        plan(name, sweep_axis={"gamma": [0.9, 0.99]})


@pytest.mark.parametrize("name", ["ars", "cem", "snes", "eggroll"])
def test_observations_are_normalized(play: Any, name: str) -> None:
    few = {"num_envs": 4, "total_steps": 200, "eval_episodes": 1}
    raw, normalized = (play(name, normalize_obs=on, **few)[-1].state.params for on in (False, True))
    assert not raw["policy.weight.0"].equal(normalized["policy.weight.0"])


@pytest.mark.parametrize("name", ["snes", "eggroll"])
def test_seed_law_holds_for_snes_and_eggroll(play: Any, name: str) -> None:
    settings = {"env": "CartPole-v1", "num_envs": 5, "policy": {"name": "mlp", "hidden": (3,)}, "total_steps": 400}
    alone, among = (play(name, seeds=seeds, eval_episodes=1, **settings)[-1].state for seeds in ((7,), (0, 7, 2)))
    assert alone.updates[0] > 2
    for leaf, value in (alone.params | alone.buffers).items():
        assert torch.equal(value[0], (among.params | among.buffers)[leaf][1]), leaf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snes", "eggroll"])
def test_snes_and_eggroll_solve_cartpole(play: Any, name: str) -> None:
    events = play(name, "CartPole-v1", seeds=3, eval_episodes=10)
    (final,) = [e for e in events if getattr(e, "final", False) and getattr(e, "mode", "") == "greedy"]
    assert min(float(np.mean(returns)) for returns in final.returns) > 475
