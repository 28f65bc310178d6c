"""Algorithms obey the seed law, and find the best policy in environments where it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.training.engine import default_update
from pgzoo.training.events import Evaluated, Event, RunEnded

Play = Callable[..., list[Event]]

LADDER: dict[str, dict[str, Any]] = {
    "a2c": {"rollout_steps": 5},
    "ppo": {"rollout_steps": 24, "epochs": 3, "kl_coef": 0.1, "adaptive_kl_target": 0.01, "target_kl": 0.05},
    "ppo, recomputed": {"rollout_steps": 24, "epochs": 3, "recompute_advantages": True, "clip_value": 0.2},
    "spo": {"rollout_steps": 24, "epochs": 3},
    "ano": {"rollout_steps": 24, "epochs": 3},
    "bpo": {"rollout_steps": 24, "epochs": 3},
    "ppg": {"rollout_steps": 16, "policy_phases": 3, "aux_epochs": 2, "aux_minibatches": 3},
    "vmpo": {"rollout_steps": 24, "epochs": 3},
    "awr": {"rollout_steps": 24, "epochs": 3},
    "impala": {"rollout_steps": 12, "epochs": 3},
}
WORLDS: dict[str, dict[str, Any]] = {
    "cartpole": {"env": "CartPole-v1", "num_envs": 3, "policy": {"hidden": (7, 5)}},
    "numbers": {"env": "probe/AnySpaces-v0", "env_kwargs": {"action": "matrix"}, "num_envs": 2},
}
SEED = 7


def slow_for(repeats: tuple[str, ...], names: Iterable[str]) -> list[Any]:
    """Return parameters for all `names`; those in `repeats` are slow tests, as only a formula is specific to them."""
    return [pytest.param(name, marks=pytest.mark.slow if name in repeats else ()) for name in names]


def bits(event: Event, row: int) -> dict[str, bytes]:
    assert isinstance(event, RunEnded)
    state = event.state
    leaves = state.params | state.buffers | {f"optimizer {name}": value for name, value in state.optimizer.items()}
    return {name: value[row].numpy().tobytes() for name, value in leaves.items()}


def assert_equal_alone_and_among(play: Play, members: int, **settings: Any) -> None:
    alone, among = play(seeds=(SEED,), **settings)[-1], play(seeds=tuple(range(members)), **settings)[-1]
    assert isinstance(alone, RunEnded) and alone.state.updates[0] > 3
    assert bits(alone, 0) == bits(among, SEED)


@pytest.mark.parametrize("world", ["cartpole", pytest.param("numbers", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", slow_for(("ppo, recomputed", "spo", "ano", "bpo", "awr"), LADDER))
def test_a_seed_trains_identically_alone_and_among_ten(play: Play, name: str, world: str) -> None:
    settings = WORLDS[world] | LADDER[name] | {"total_steps": 300, "eval_episodes": 1}
    assert_equal_alone_and_among(play, 10, algorithm=name.split(",")[0], **settings)


@pytest.mark.parametrize(
    ("algorithm", "distribution"),
    [*(pytest.param("rpo", name, marks=pytest.mark.slow) for name in ("gaussian", "tanh")), ("reppo", "tanh")],
)
def test_seed_law_holds_for_rpo_and_reppo(play: Play, algorithm: str, distribution: str) -> None:
    policy = {"hidden": (7, 5), "distribution": distribution}
    settings = WORLDS["numbers"] | {"rollout_steps": 23, "epochs": 3, "policy": policy, "total_steps": 300}
    assert_equal_alone_and_among(play, 10, algorithm=algorithm, eval_episodes=1, **settings)


def test_seed_law_holds_for_pqn(play: Play) -> None:
    settings = WORLDS["cartpole"] | {"rollout_steps": 24, "epochs": 3, "total_steps": 300, "eval_episodes": 1}
    assert_equal_alone_and_among(play, 10, algorithm="pqn", **settings)


@pytest.mark.parametrize(
    "members", [pytest.param(8, marks=pytest.mark.slow), 17, pytest.param(33, marks=pytest.mark.slow)]
)
def test_seed_law_holds_for_vmpo_whatever_the_number_of_members(play: Play, members: int) -> None:
    settings = {"rollout_steps": 16, "epochs": 2, "total_steps": 200, "num_envs": 2, "eval_episodes": 1}
    assert_equal_alone_and_among(play, members, algorithm="vmpo", env="probe/Corridor-v0", **settings)


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo"])
@pytest.mark.parametrize("reward", [1e6 + 0.1, -99.3])
def test_equal_returns_leave_the_parameters_unchanged(engine: Any, algorithm: str, reward: float) -> None:
    """Rounding errors must not count as advantages: Adam takes steps of the same size for gradients of any size."""
    ctx = engine(algorithm, env="probe/Bandit-v0", seeds=2, num_envs=24)
    state, seen = ctx.collect(ctx.state)
    after = default_update(ctx, state, seen._replace(rewards=torch.full_like(seen.rewards, reward)))
    for name, value in state.params.items():
        assert torch.equal(after.params[name], value), name


FEW: dict[str, Any] = {"epochs": 4, "minibatches": 2}
PROBES: dict[str, dict[str, Any]] = {
    "a2c": {},
    "ppo": FEW,
    "spo": FEW,
    "ano": FEW,
    "bpo": FEW,
    "ppg": {"minibatches": 2, "aux_minibatches": 4},
    "vmpo": FEW,
    "awr": FEW,
    "impala": FEW,
}
"""Settings with enough gradient steps to solve a probe environment quickly."""


def greedy(events: list[Event]) -> list[float]:
    (event,) = [e for e in events if isinstance(e, Evaluated) and e.final and e.mode == "greedy"]
    return [float(np.mean(returns)) for returns in event.returns]


@pytest.mark.learning
@pytest.mark.slow  # the test of the corridor is harder
@pytest.mark.parametrize("algorithm", [*PROBES, "pqn"])
def test_the_best_of_three_bandit_arms_is_found(play: Play, algorithm: str) -> None:
    settings = {"env": "probe/Bandit-v0", "seeds": 5, "total_steps": 6000, "rollout_steps": 32, "eval_episodes": 5}
    assert greedy(play(algorithm, learning_rate=0.01, **settings, **PROBES.get(algorithm, FEW))) == [1.0] * 5


@pytest.mark.learning
@pytest.mark.parametrize("algorithm", slow_for(("a2c", "spo", "ano", "bpo"), [*PROBES, "pqn"]))
def test_the_shortest_path_through_a_corridor_is_found(play: Play, algorithm: str) -> None:
    settings = {"env": "probe/Corridor-v0", "seeds": 5, "total_steps": 6000, "rollout_steps": 32, "eval_episodes": 5}
    assert greedy(play(algorithm, learning_rate=0.005, **settings, **PROBES.get(algorithm, FEW))) == [-5.0] * 5


GAUSSIAN = ["ppo", "vmpo", "reppo"]
"""Algorithms that fast tests train with Gaussian actions.

The others treat these like the discrete actions of the corridor, and `rpo` treats them like `ppo`.
"""


@pytest.mark.learning
@pytest.mark.parametrize(
    "algorithm", [*GAUSSIAN, *(pytest.param(name, marks=pytest.mark.slow) for name in PROBES if name not in GAUSSIAN)]
)
def test_a_continuous_target_action_is_found(play: Play, algorithm: str) -> None:
    steps = 12_000 if algorithm == "a2c" else 6000  # a2c uses each step for one gradient step only
    settings = {"env": "probe/Target-v0", "seeds": 5, "total_steps": steps, "rollout_steps": 32, "eval_episodes": 5}
    few = PROBES.get(algorithm, FEW)
    events = play(algorithm, learning_rate=0.005, num_envs=8, normalize_reward=False, **settings, **few)
    assert min(greedy(events)) > -0.02  # within 0.15 of the target
