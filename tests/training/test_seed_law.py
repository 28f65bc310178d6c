"""The seed law: a seed trains the same, bit for bit, alone and among others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.training.events import Evaluated, Event, RunEnded
from pgzoo.training.loop import Control, train
from pgzoo.types import TrainState

Play = Callable[..., list[Event]]
SEED = 7

WORLDS: dict[str, dict[str, Any]] = {
    "cartpole": {"env": "CartPole-v1"},
    "cartpole, sync": {"env": "CartPole-v1", "backend": "sync", "num_envs": 4},
    "cartpole, one environment": {"env": "CartPole-v1", "num_envs": 1},
    "pendulum": {"env": "Pendulum-v1", "max_episode_steps": 25, "num_envs": 3},
    "frozen lake": {"env": "FrozenLake-v1"},
    "numbers, of other lengths": {"env": "probe/AnySpaces-v0", "env_kwargs": {"action": "one"}},
    "matrices": {"env": "probe/AnySpaces-v0", "env_kwargs": {"observation": "matrix", "action": "matrix"}},
    "bits": {"env": "probe/AnySpaces-v0", "env_kwargs": {"observation": "dict", "action": "multi-binary"}},
    "images": {"env": "probe/AnySpaces-v0", "env_kwargs": {"observation": "image"}},
    "images and numbers": {"env": "probe/AnySpaces-v0", "env_kwargs": {"observation": "image-and-vector"}},
    "tuples": {"env": "probe/AnySpaces-v0", "env_kwargs": {"observation": "tuple", "action": "multi-discrete"}},
}
NETWORKS: list[dict[str, Any]] = [
    {"hidden": (64,)},
    {"hidden": (64, 64), "activation": "tanh"},
    {"hidden": ()},
    {"hidden": (5,), "activation": "silu"},
]


def ended(events: list[Event]) -> RunEnded:
    last = events[-1]
    assert isinstance(last, RunEnded)
    return last


def bits(state: TrainState, row: int) -> dict[str, bytes]:
    leaves = state.params | state.buffers | {f"optimizer {name}": value for name, value in state.optimizer.items()}
    return {name: value[row].numpy().tobytes() for name, value in leaves.items()}


def assert_equal_alone_and_among(play: Play, members: int, **settings: Any) -> None:
    alone, among = play(seeds=(SEED,), **settings), play(seeds=tuple(range(members)), **settings)
    a, b = ended(alone).state, ended(among).state
    assert a.updates[0] == b.updates[SEED] > 3
    assert a.env_steps[0] == b.env_steps[SEED]
    assert bits(a, 0) == bits(b, SEED)
    for one, many in zip(alone[-3:-1], among[-3:-1], strict=True):
        assert isinstance(one, Evaluated) and isinstance(many, Evaluated) and one.final and many.final
        assert np.array_equal(one.returns[0], many.returns[SEED])
        assert np.array_equal(one.lengths[0], many.lengths[SEED])


ALL_NETWORKS = ("cartpole", "pendulum")
PAIRS = [
    (world, network)
    for world in WORLDS
    if "images" not in world
    for network in (NETWORKS if world in ALL_NETWORKS else NETWORKS[3:])
]


@pytest.mark.parametrize(("world", "network"), PAIRS, ids=str)
def test_a_seed_trains_identically_alone_and_among_ten_on_whole_episodes(play: Play, world: str, network: Any) -> None:
    settings = {"num_envs": 4, "total_steps": 600, "eval_episodes": 3} | WORLDS[world]
    assert_equal_alone_and_among(play, 10, policy=network, **settings)


@pytest.mark.parametrize("world", [world for world in WORLDS if world != "images and numbers"])
def test_a_seed_trains_identically_alone_and_among_ten_on_windows(play: Play, world: str) -> None:
    settings = {"num_envs": 2, "eval_episodes": 3} | WORLDS[world]
    settings["total_steps"] = 4 * 64 * settings["num_envs"]
    assert_equal_alone_and_among(play, 10, algorithm="windows", policy={"hidden": (64, 5)}, **settings)


POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("pendulum", {"name": "linear", "state_std": True}),
    "mlp": ("bits", {"name": "mlp", "hidden": (5,)}),
    "mlp, shared": ("pendulum", {"name": "mlp", "hidden": (5,), "critic": "shared", "distribution": "beta"}),
    "mlp, layer norm": ("pendulum", {"name": "mlp", "hidden": (5, 9), "layer_norm": True}),
    "mlp, sde": ("pendulum", {"name": "mlp", "hidden": (5,), "sde": True}),
    "simba": ("pendulum", {"name": "simba", "width": 5}),
    "gru, sde": ("matrices", {"name": "gru", "hidden": (), "memory": 5, "sde": True, "sde_sample_freq": None}),
    "tabular": ("frozen lake", {"name": "tabular"}),
    "gru": ("cartpole", {"name": "gru"}),
    "gru, odd": ("pendulum", {"name": "gru", "hidden": (5,), "memory": 7, "distribution": "tanh"}),
    "lstm": ("matrices", {"name": "lstm"}),
    "lstm, odd": ("cartpole, one environment", {"name": "lstm", "hidden": (), "memory": 3, "init": "default"}),
    "gtrxl": ("cartpole", {"name": "gtrxl", "memory": 8}),
    "gtrxl, odd": ("pendulum", {"name": "gtrxl", "width": 6, "heads": 3, "memory": 3, "blocks": 2, "sde": True}),
    "net": ("matrices", {"name": "net"}),
    "cnn": ("images", {"name": "cnn", "filters": (5, 3), "hidden": (9,)}),
    "impala-cnn": (
        "images and numbers",
        {"name": "impala-cnn", "filters": (3,), "hidden": (), "critic": "separate", "normalize_obs": True},
    ),
}


@pytest.mark.parametrize("algorithm", ["a2c", pytest.param("reinforce", marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", POLICIES)
def test_policies_keep_the_seed_law(play: Play, policy: str, algorithm: str) -> None:
    world, given = POLICIES[policy]
    component = dict(given)
    normalizes = {"normalize_obs": component.pop("normalize_obs", False)}
    steps = 150 if algorithm == "a2c" else 400  # a2c updates after every few steps
    settings = {"num_envs": 3, "total_steps": steps, "eval_episodes": 3} | WORLDS[world] | normalizes
    assert_equal_alone_and_among(play, 10, algorithm=algorithm, policy=component, **settings)


@pytest.mark.parametrize("algorithm", ["a2c", "reinforce"])
@pytest.mark.parametrize(("policy", "world"), [("gru", "pendulum"), ("mlp", "numbers, of other lengths")])
def test_normalizing_keeps_the_seed_law(play: Play, policy: str, world: str, algorithm: str) -> None:
    settings = {"num_envs": 3, "total_steps": 400, "eval_episodes": 3} | WORLDS[world]
    normalized = {"normalize_obs": True, "normalize_reward": True, "policy": {"name": policy, "hidden": (5,)}}
    assert_equal_alone_and_among(play, 10, algorithm=algorithm, **settings, **normalized)


@pytest.mark.parametrize("algorithm", ["a2c", "reinforce"])
def test_action_masks_keep_the_seed_law(play: Play, algorithm: str) -> None:
    settings = {"env": "probe/Trap-v0", "num_envs": 3, "total_steps": 200, "eval_episodes": 3}
    for policy in ("mlp", "gru"):
        assert_equal_alone_and_among(play, 10, algorithm=algorithm, policy={"name": policy, "hidden": (5,)}, **settings)


@pytest.mark.parametrize("members", [8, pytest.param(16, marks=pytest.mark.slow), 33])
def test_the_number_of_members_does_not_affect_a_seed(play: Play, members: int) -> None:
    """SIMD vectors hold 8 or 16 numbers; the numbers left over at the end of an array may be rounded differently."""
    assert_equal_alone_and_among(play, members, env="FrozenLake-v1", total_episodes=320, policy={"hidden": (64,)})


@pytest.mark.parametrize(
    "options",
    [
        {"gamma_t": True},
        {"estimator": "total-return"},
        {"estimator": "notebook", "average": "episodes"},
        {"optimizer": "rmsprop", "learning_rate": 1e-3},
        {"optimizer": "sgd", "max_grad_norm": 0.5},
        {"entropy_coef": 0.01, "baseline": "none", "normalize_returns": False, "max_grad_norm": 0.1},
    ],
    ids=lambda options: ",".join(options),
)
def test_options_of_reinforce_keep_the_seed_law(play: Play, options: dict[str, Any]) -> None:
    settings = {"policy": {"hidden": (8,)}, "total_steps": 3000} | options
    assert_equal_alone_and_among(play, 18, **settings)


PLAIN_AND_NATURAL: dict[str, dict[str, Any]] = {
    "reinforce-baseline": {"gamma_t": True, "entropy_coef": 0.01},
    "rloo": {"entropy_coef": 0.01},
    "vpg": {"rollout_steps": 40, "entropy_coef": 0.01, "critic_steps": 3},
    "npg": {"rollout_steps": 40, "critic_steps": 3, "step_kl": 0.02},
    "trpo": {"rollout_steps": 40, "critic_steps": 3, "max_kl": 0.5, "damping": 1e-3, "line_search_steps": 2},
}


ODD, COMMON = {"hidden": (5, 7), "activation": "silu"}, {"hidden": (64, 64)}


@pytest.mark.parametrize(
    ("algorithm", "world", "policy"),
    [
        pytest.param(
            algorithm, world, policy, marks=pytest.mark.slow if world == "tuples" and algorithm != "npg" else ()
        )
        for algorithm in PLAIN_AND_NATURAL
        for world, policy in (("cartpole", COMMON), ("numbers, of other lengths", ODD), ("tuples", ODD))
    ],
    ids=str,
)
def test_plain_and_natural_gradients_keep_the_seed_law(play: Play, algorithm: str, world: str, policy: Any) -> None:
    settings = {"num_envs": 3, "total_steps": 500, "eval_episodes": 3} | WORLDS[world]
    assert_equal_alone_and_among(
        play, 10, algorithm=algorithm, policy=policy, **PLAIN_AND_NATURAL[algorithm], **settings
    )


@pytest.mark.parametrize(
    "algorithm", ["trpo", *(pytest.param(name, marks=pytest.mark.slow) for name in PLAIN_AND_NATURAL if name != "trpo")]
)
def test_plain_and_natural_gradients_of_recurrent_policies_keep_the_seed_law(play: Play, algorithm: str) -> None:
    policy = {"name": "gru", "hidden": (9,), "memory": 7}
    settings = {"num_envs": 3, "total_steps": 500, "eval_episodes": 3, "env": "CartPole-v1", "policy": policy}
    settings |= PLAIN_AND_NATURAL[algorithm]
    if "rollout_steps" in settings:
        settings |= {"rollout_steps": 20, "total_steps": 250}
    assert_equal_alone_and_among(play, 10, algorithm=algorithm, **settings)


def test_stopping_members_early_does_not_change_the_remaining_one(play: Play, plan: Callable[..., Any]) -> None:
    settings = {"seeds": (3, SEED, 5), "total_steps": 2500, "num_envs": 8}
    undisturbed, control, updates = ended(play(**settings)), Control(), 0
    events = []
    for event in train(plan(**settings), control):
        events.append(event)
        updates += type(event).__name__ == "UpdateDone"
        if updates == 3 and not control.stops:
            control.stop((0,), "enough of this one")
        if updates == 5 and not control.stops:
            control.stop((2,))
    stopped = ended(events)
    assert stopped.statuses == ("stopped", "finished", "stopped")
    assert stopped.reasons[0] == "enough of this one"
    assert stopped.state.updates[0] < stopped.state.updates[2] < stopped.state.updates[1]
    assert bits(stopped.state, 1) == bits(undisturbed.state, 1)


@pytest.mark.parametrize("algorithm", ["reinforce", "windows"])
def test_a_stopped_member_ends_with_the_same_state_among_three_as_alone(
    plan: Callable[..., Any], algorithm: str
) -> None:
    control, at_stop = Control(), None
    for event in train(plan(algorithm, seeds=3, total_steps=2000), control):
        if type(event).__name__ == "UpdateDone" and at_stop is None:
            control.stop((0,))
            at_stop = event
    state = ended([event]).state
    short = None
    for event in train(plan(algorithm, seeds=1, total_steps=2000), stopper := Control()):
        if type(event).__name__ == "UpdateDone" and short is None:
            stopper.stop()
            short = event
    assert bits(state, 0) == bits(ended([event]).state, 0)
    if state.collector is not None:
        alone = ended([event]).state.collector
        for name, leaf in state.collector._asdict().items():
            if leaf is not None:
                assert np.array_equal(leaf[0], getattr(alone, name)[0]), name


def test_evaluations_do_not_affect_training(play: Play) -> None:
    for algorithm in ("reinforce", "windows"):
        quiet, often = (ended(play(algorithm, seeds=(1, 2), total_steps=1500, eval_every=every)) for every in (0, 200))
        assert [bits(quiet.state, row) for row in (0, 1)] == [bits(often.state, row) for row in (0, 1)]


def test_the_number_of_evaluation_episodes_affects_neither_training_nor_the_first_episodes(play: Play) -> None:
    runs = [play(backend="sync", total_steps=500, eval_episodes=count) for count in (3, 8, 20)]
    assert bits(ended(runs[0]).state, 0) == bits(ended(runs[1]).state, 0) == bits(ended(runs[2]).state, 0)
    three, eight, twenty = ([e.returns[0].tolist() for e in run if isinstance(e, Evaluated)] for run in runs)
    assert [len(returns) for returns in three + eight + twenty] == [3, 3, 8, 8, 20, 20]  # sampled, then greedy
    assert [returns[:8] for returns in twenty] == eight  # the first round, listed in the order in which episodes end
    assert not Counter(three[1]) - Counter(eight[1])  # greedy, so without noise, which depends on the width of a round


def test_a_run_is_reproducible(play: Play) -> None:
    first, again = (ended(play(seeds=(4,), total_steps=1500)) for _ in range(2))
    assert bits(first.state, 0) == bits(again.state, 0)


def test_training_leaves_torchs_threads_and_global_generators_unchanged(play: Play) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    threads = torch.get_num_threads()
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    play(total_steps=300, threads=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(before, torch.get_rng_state())
    assert numpys == np.random.get_state()[1].tolist()  # type: ignore[union-attr]
