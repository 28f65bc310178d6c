"""Runs of the algorithms: the seed law, resuming, learning, exploration, and settings that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from pgzoo_offpolicy.exploration import exploration_noise, init_exploration

import pgzoo
from pgzoo.errors import UnfitError, UsageError
from pgzoo.export import onnx
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.registry import discover
from pgzoo.testing import probes
from pgzoo.training import checkpoint
from pgzoo.training.loop import Progress
from pgzoo.types import TrainState

CONTINUOUS = "ddpg", "td3", "sac"
ALGORITHMS = *CONTINUOUS, "sac-discrete"
SMALL: Mapping[str, Any] = {
    "preset": "none",
    "learning_starts": 20,
    "batch_size": 20,
    "buffer_size": 64,
    "critic_hidden": (8,),
    "policy": {"hidden": (8,)},
    "eval_episodes": 1,
    "total_steps": 90,
    "num_envs": 2,
}


def train(algorithm: str, control: pgzoo.Control | None = None, resume: Any = None, **settings: Any) -> TrainState:
    """Train a small run to its end; return the last state."""
    env = {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"action": "one"}}
    if algorithm == "sac-discrete":
        env = {"env": "CartPole-v1"}
    plan = pgzoo.plan(algorithm, **{**env, **SMALL, **settings})
    *_, ended = pgzoo.train(plan, control, resume)
    assert set(ended.statuses) == {"finished"}, ended.reasons
    state: TrainState = ended.state
    return state


def differences(one: TrainState, other: TrainState, rows: tuple[int, int] = (0, 0)) -> list[str]:
    """Return the names of the tensors that differ between a member of one state and a member of another."""
    trees = [(getattr(one, tree), getattr(other, tree)) for tree in ("params", "buffers", "optimizer")]
    return [name for a, b in trees for name in a if not torch.equal(a[name][rows[0]], b[name][rows[1]])]


def test_the_plugin_registers_its_algorithms() -> None:
    catalog = discover(inline=False)
    for name in ALGORITHMS:
        assert catalog.get("algorithm", name).plugin.distribution == "pgzoo-offpolicy"


def test_a_replay_buffer_that_does_not_fit_into_memory_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the replay buffers of 2 seeds, .*GiB\. Choose a smaller --buffer-size"):
        train("td3", buffer_size=10**20, seeds=2)


def test_the_exported_actions_of_td3_span_the_box() -> None:
    """The graph for ONNX maps actions in [-1, 1] onto [-2, 2], as the policy does."""
    plan = pgzoo.plan("td3", env="Pendulum-v1", policy={"hidden": (8,)})
    params = plan.policy.init(np.random.default_rng(0)) | plan.policy.buffers()  # type: ignore[attr-defined]
    wide = {name: 30 * leaf[None] if name == "weight.1" else leaf[None] for name, leaf in params.items()}
    policy = LoadedPolicy(plan.config.policy, plan.spec, plan.policy, wide)
    obs = np.float32([[1, 0, 5], [-1, 0, -8], [0, 1, 0]])
    actions, mean, *_ = onnx.Graph(policy)(torch.from_numpy(obs))
    assert np.allclose(actions, 2 * mean, atol=1e-6) and float(actions.abs().max()) > 1
    assert np.allclose(actions, policy.act(obs, deterministic=True), atol=1e-5)


class Readings(probes.AnySpaces):
    """Observations of unsigned integers."""

    def __init__(self) -> None:
        super().__init__(action="one")
        self.observation_space = gym.spaces.Box(0, 60_000, (2,), np.uint16)
        self.views = [np.array([k, 60_000 - k], np.uint16) for k in range(50)]


def test_observations_of_unsigned_integers_are_replayed_as_they_are() -> None:
    stored = train("td3", env=Readings, env_kwargs={}).buffers["replay.obs"]
    assert set(stored[stored.any(-1)].sum(-1).tolist()) == {60_000}


VARIANTS: Mapping[str, Any] = {
    "td3": {"noise_correlation": 0.9},
    "sac": {"noise_correlation": 0.9, "temperature": 0.1},
    "sac-discrete": {},
}
"""Settings of the tests of resuming and of the seed law. The noise is correlated, so that the state includes it."""


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_a_seed_trains_identically_alone_and_among_others(algorithm: str) -> None:
    """Episodes end at different steps for each seed; the buffer is overwritten."""
    variant = VARIANTS[algorithm]
    alone, among = train(algorithm, seeds=[3], **variant), train(algorithm, seeds=[0, 5, 3], **variant)
    assert alone.env_steps[0] == among.env_steps[2] and differences(alone, among, (0, 2)) == []
    assert len(differences(among, among, (0, 1))) > 10


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one(algorithm: str, tmp_path: Path) -> None:
    """The checkpoint, on disk, is from the middle of an episode, after the first gradient steps."""
    written: list[Progress] = []
    control = pgzoo.Control()
    control.write_checkpoints = lambda progress, members: written.append(progress)
    settings: dict[str, Any] = {"seeds": [1, 4], "checkpoint_every": 40, **VARIANTS[algorithm]}
    if algorithm != "sac-discrete":
        settings |= {"env": "Pendulum-v1", "env_kwargs": {}}
    whole = train(algorithm, control, **settings)
    middle = written[0]
    assert middle.state.env_steps.tolist() == [40, 40] and middle.exact
    members = [checkpoint.save(tmp_path / str(row), one, {}) for row, one in enumerate(split(middle.state))]
    state = checkpoint.assemble([checkpoint.load(path).state for path in members])
    resumed = train(algorithm, None, Progress(state, middle.statuses, middle.reasons, middle.forgets), **settings)
    for member in range(2):
        assert differences(whole, resumed, (member, member)) == []
    assert (resumed.env_steps == whole.env_steps).all()


def test_members_whose_checkpoints_are_from_different_updates_are_resumed() -> None:
    """Delayed updates count the optimizer's steps per parameter. One checkpoint is from before the first such step."""
    written: dict[int, Progress] = {}
    control = pgzoo.Control()

    def keep(progress: Progress, members: tuple[int, ...]) -> None:
        if len(written) < 2:
            written.update(dict.fromkeys(members, progress))

    control.write_checkpoints = keep
    settings: dict[str, Any] = {"seeds": [3, 5], "checkpoint_every": 20, "num_envs": 1}
    train("td3", control, **settings)
    early, late = (split(written[row].state)[row] for row in range(2))
    assert early.updates < late.updates
    state = checkpoint.assemble([early, late])
    for row, one in enumerate((early, late)):
        alone = [name for name, leaf in one.optimizer.items() if not (state.optimizer[name][row] == leaf[0]).all()]
        assert alone == []
    resumed = train("td3", None, Progress(state, ("running",) * 2, ("",) * 2), **settings)
    assert (resumed.env_steps >= 90).all()


def split(state: TrainState) -> list[TrainState]:
    """Return the state of each member, with S = 1."""
    from pgzoo.ops.members import select

    return [select(state, [row]) for row in range(len(state.active))]


@pytest.mark.parametrize("algorithm", CONTINUOUS)
def test_the_continuous_algorithms_solve_the_target_probe(algorithm: str) -> None:
    """The best action is 0.5, with return 0; uniform actions get -1.6 on average, action 0 gets -0.25."""
    assert "pgzoo/Target-v0" in probes.PROBES
    plan = pgzoo.plan(
        algorithm,
        env="pgzoo/Target-v0",
        seeds=2,
        num_envs=8,
        total_steps=1200,
        learning_starts=100,
        batch_size=64,
        buffer_size=2000,
        learning_rate=5e-3,
        tau=0.02,
        policy={"hidden": (16,)},
        critic_hidden=(16,),
        eval_episodes=4,
    )
    greedy = [e for e in pgzoo.train(plan) if type(e).__name__ == "Evaluated" and e.mode == "greedy"]
    means = [float(returns.mean()) for returns in greedy[-1].returns]
    assert min(means) > -0.05


@pytest.mark.slow
def test_discrete_sac_solves_cartpole() -> None:
    """With its preset. A random policy gets 22, and one that balances but drifts to the edge 160 to 300."""
    plan = pgzoo.plan("sac-discrete", env="CartPole-v1", seeds=3, eval_episodes=20, compile="off")
    greedy = [e for e in pgzoo.train(plan) if type(e).__name__ == "Evaluated" and e.mode == "greedy"]
    assert np.median([float(returns.mean()) for returns in greedy[-1].returns]) > 400


@pytest.mark.parametrize("algorithm", CONTINUOUS)
def test_target_networks_start_as_copies_and_critics_may_learn_faster(algorithm: str) -> None:
    """Without gradient steps, nothing has moved; with a tiny learning rate, almost only the critics move."""
    from pgzoo_offpolicy.targets import select_named

    from pgzoo.ops.optim import flatten

    still = train(algorithm, seeds=[3], learning_starts=10**6)
    prefixes = ("policy.", "ddpg.", "td3.") if algorithm != "sac" else ("sac.q",)
    copied = flatten(select_named(still.params, prefixes).values())
    assert torch.equal(still.buffers[f"{algorithm}.target"], copied)
    moved = train(algorithm, seeds=[3], learning_rate=1e-12, critic_learning_rate=1e-2)
    for name, leaf in moved.params.items():
        change = float((leaf - still.params[name]).abs().max())
        assert change > 1e-3 if ".q" in name else change < 1e-6, name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_learning_rate_of_the_critics_follows_the_schedule(algorithm: str) -> None:
    """A run whose critics are given the policy's learning rate equals a run whose critics have none of their own."""
    settings: dict[str, Any] = {"seeds": [3], "learning_rate": 1e-2, "learning_rate_schedule": "linear"}
    same, other = (train(algorithm, critic_learning_rate=rate, **settings) for rate in (1e-2, 2e-2))
    default = train(algorithm, **settings)
    assert differences(same, default) == []
    assert differences(other, default) != []


@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_warm_up_actions_are_uniform(algorithm: str) -> None:
    """About a quarter of 400 actions is in each quarter of their range; the policy's own actions would be near 0."""
    settings = {"env": "pgzoo/Target-v0", "env_kwargs": {}, "num_envs": 20, "total_steps": 400, "buffer_size": 1000}
    if algorithm == "sac":
        settings["policy"] = {"state_std": False, "log_std": -3.0}
    stored = train(algorithm, learning_starts=10**6, **settings).buffers
    actions = stored["replay.block.actions"][0, :, 0].numpy()
    valid = stored["replay.block.valid"][0].numpy()
    counts, _ = np.histogram(actions[valid], 4, (-1, 1))
    assert counts.min() > 0.15 * valid.sum()
    if algorithm == "td3":
        assert stored["policy.warm_up"].tolist() == [[0.0]]


@pytest.mark.parametrize("state_std", [False, True])
def test_warm_up_actions_of_sac_are_uniform_whatever_the_policy_does(state_std: bool) -> None:
    """One seed starts with a policy that always chooses an action near 1; warming up doesn't change the policy."""
    settings: dict[str, Any] = {"env": "pgzoo/Target-v0", "seeds": 2, "num_envs": 20, "total_steps": 400}
    settings |= {"buffer_size": 1000, "learning_starts": 10**6, "policy": {"hidden": (8,), "state_std": state_std}}
    plan = pgzoo.plan("sac", **{**SMALL, **settings})
    bias = plan.policy.init(np.random.default_rng(0))["bias.1"]
    biased = torch.stack([bias, bias + 3.0])
    *_, ended = pgzoo.train(replace(plan, initial={"policy.bias.1": biased}))
    stored, params = ended.state.buffers, ended.state.params
    for member in range(2):
        actions = stored["replay.block.actions"][member, :, 0].numpy()
        valid = stored["replay.block.valid"][member].numpy()
        counts, _ = np.histogram(actions[valid], 4, (-1, 1))
        assert counts.min() > 0.15 * valid.sum()
    assert params["policy.bias.1"].equal(biased) and bool(params["policy.weight.0"].any())


@pytest.mark.parametrize("algorithm", ["sac", "sac-discrete"])
def test_a_fixed_temperature_is_not_learned(algorithm: str) -> None:
    fixed = train(algorithm, seeds=[3], temperature=0.25)
    name = algorithm.replace("-", "_") + ".log_alpha"
    assert name not in fixed.params and fixed.buffers[name].exp().tolist() == pytest.approx([0.25])
    learned = train(algorithm, seeds=[3], temperature_init=0.25).params[name]
    assert abs(float(learned.exp()) - 0.25) > 1e-3


def test_state_dependent_noise_of_sac_is_kept_for_a_rollout_and_its_log_std_is_learned() -> None:
    """All observations are equal, so the actions of an environment are equal during a rollout of four steps."""
    assert "pgzoo/Target-v0" in probes.PROBES
    settings: dict[str, Any] = {"env": "pgzoo/Target-v0", "env_kwargs": {}, "gradient_steps": 2, "temperature": 0.1}
    policy = {"hidden": (8,), "sde": True, "state_std": False, "log_std": -1.0}
    trained = train("sac", seeds=[3], policy=policy, rollout_steps=4, **settings)
    actions = trained.buffers["replay.actions"].reshape(-1, 4, 2)
    assert torch.equal(actions, actions[:, :1].expand_as(actions))
    assert len(actions[:, 0].unique()) == actions[:, 0].numel()  # each rollout of each environment has its own noise
    assert trained.params["policy.log_std"].shape == (1, 8, 1)
    assert float((trained.params["policy.log_std"] + 1.0 + 0.5 * np.log(8)).abs().max()) > 1e-3  # it was trained


def test_correlated_noise_is_standard_normal_and_continues_across_updates() -> None:
    """Successive steps have the given correlation, within an update and between the last and the first of two."""
    rng, correlation = np.random.default_rng(0), 0.9
    settings = SimpleNamespace(noise_correlation=correlation, rollout_steps=50)
    space = SimpleNamespace(action_space=gym.spaces.Box(-1, 1, (2,)))
    ctx: Any = SimpleNamespace(settings=settings, num_envs=200, spec=space)
    ctx.noise = lambda stream, state, shape: torch.from_numpy(rng.standard_normal((1, *shape), np.float32))
    state: Any = TrainState(*[None] * len(TrainState._fields))._replace(
        buffers={name: leaf[None] for name, leaf in init_exploration(ctx, rng).items()}
    )
    state, first = exploration_noise(ctx, state)
    state, second = exploration_noise(ctx, state)
    both = torch.cat([first, second], 1)[0]  # [100, 200, 2]
    assert torch.equal(state.buffers["exploration.last"], second[:, -1])
    assert float(both.mean()) == pytest.approx(0, abs=0.1) and float(both.std()) == pytest.approx(1, abs=0.1)
    for t in (0, 49, 98):
        assert np.corrcoef(both[t].flatten(), both[t + 1].flatten())[0, 1] == pytest.approx(correlation, abs=0.04)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "td3", "policy": "mlp"}, "--policy deterministic"),
        ({"algorithm": "sac", "policy": {"distribution": "gaussian"}}, "--policy.distribution tanh"),
        ({"algorithm": "td3", "env_kwargs": {"action": "wide"}, "env": "pgzoo/AnySpaces-v0"}, "such as ppo"),
        ({"algorithm": "ddpg", "normalize_reward": True}, "remove --normalize-reward"),
        (
            {"algorithm": "sac", "policy": {"state_std": False, "sde": True}, "noise_correlation": 0.5},
            "remove --noise-correlation",
        ),
        ({"algorithm": "td3", "env": "CartPole-v1"}, "supports only Box actions"),
        ({"algorithm": "sac", "env": "CartPole-v1"}, 'Algorithm "sac" supports only Box actions, not Discrete'),
        ({"algorithm": "sac-discrete"}, "supports only Discrete actions"),
        ({"algorithm": "ppo", "policy": "deterministic"}, "doesn't provide what the algorithm"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        next(pgzoo.train(pgzoo.plan(**{"env": "Pendulum-v1", **settings})))
