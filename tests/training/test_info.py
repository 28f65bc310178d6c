"""Values from the environment's info that an algorithm or an estimator needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

import pgzoo
from pgzoo.config import Layer
from pgzoo.errors import PluginError, UnfitError
from pgzoo.ops.losses import weighted_mean
from pgzoo.protocols import UpdateContext
from pgzoo.registry import PluginCatalog, PluginInfo, Registry, discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.reproduce import reproduce
from pgzoo.runs.resolve import compose
from pgzoo.runs.resume import resume
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home, find
from pgzoo.training.engine import Engine
from pgzoo.types import Batch, Hyper, Params, Steps, TrainState, Trajectory

SHORT: dict[str, Any] = {"eval_episodes": 1, "tracking_uri": "none", "compile": "off", "checkpoint_every": 0}


class Toll(gym.Env[Any, Any]):
    """Five steps; action 1 pays 1 and costs 2, action 0 costs nothing."""

    observation_space = Box(-1.0, 1.0, (2,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        obs = self.np_random.normal(size=2).astype(np.float32)
        return obs, float(action), self.t == 5, False, {"cost": 2 * int(action)}


class Frugal:
    """REINFORCE on windows, with a penalty on costs; it stores its trajectories and batches."""

    collect = Steps(13)
    estimator = "reward-to-go"
    needs = frozenset({"info:cost"})
    defaults: ClassVar[dict[str, Any]] = {"num_envs": 2, "total_steps": 100}
    seen: ClassVar[list[tuple[Trajectory, Batch]]] = []

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        assert trajectory.info is not None
        targets = ctx.estimate(state, trajectory, bonus=-trajectory.info["cost"])
        for batch in ctx.minibatches(state, trajectory, targets, count=2):
            self.seen.append((trajectory, batch))
            state = ctx.step(self.loss, state, batch)
        return state

    def loss(self, policy: Any, params: Params, batch: Batch, hyper: Hyper) -> Tensor:
        log_probs = policy.apply(params, batch.inputs).dist.log_prob(batch.actions)
        return -weighted_mean(log_probs * batch.advantages, batch.weights)


def costs_to_go(rewards: Tensor, info: dict[str, Tensor]) -> Tensor:
    """Return minus the sum of the costs from each step to the end of the window."""
    return -info["cost"].flip(-2).cumsum(-2).flip(-2) + 0 * rewards


costs_to_go.needs = ("info:cost",)  # type: ignore[attr-defined]


def takes_info(rewards: Tensor, info: dict[str, Tensor]) -> Tensor:
    """Take `info` without declaring that it is needed."""
    return rewards


class TollState:
    """Saves and restores a Toll."""

    def fits(self, env: gym.Env[Any, Any]) -> bool:
        return isinstance(env.unwrapped, Toll)

    def get(self, env: Any) -> Any:
        return env.unwrapped.t

    def put(self, env: Any, state: Any) -> None:
        env.unwrapped.t = state


class Blind(Frugal):
    """Declares no need for costs."""

    needs = frozenset()

    def update(self, ctx: UpdateContext, state: TrainState, trajectory: Trajectory) -> TrainState:
        ctx.report({"costs": ctx.estimate(state, trajectory).returns.sum((-2, -1))})
        return state


class Misspelt(Frugal):
    """Declares a need for info without a key."""

    needs = frozenset({"info:"})


@pytest.fixture
def zoo() -> Iterator[PluginCatalog]:
    gym.register("Toll-v0", Toll)
    found = discover(inline=False)
    registry = Registry(PluginInfo("tolls", "entry point", "tolls", "tolls", "1.0"))
    for name, algorithm in {"frugal": Frugal, "blind": Blind, "misspelt": Misspelt}.items():
        registry.algorithm(name, algorithm)
    registry.estimator("costs-to-go", costs_to_go)
    registry.estimator("takes-info", takes_info)
    registry.env_state("toll", TollState)
    found.add(registry.plugin, object(), registry.entries.values())
    Frugal.seen.clear()
    yield found
    gym.registry.pop("Toll-v0")


def config(zoo: PluginCatalog, algorithm: str = "frugal", env: str = "Toll-v0", **settings: Any) -> pgzoo.RunConfig:
    return compose(Layer({"algorithm": algorithm, "env": env, **SHORT, **settings}, ".".join), zoo)


def test_info_values_are_in_the_trajectory_and_in_every_batch(zoo: PluginCatalog, home: Home) -> None:
    result = run_config(config(zoo, seeds=(0, 1)), zoo, home=home)
    for trajectory, batch in Frugal.seen:
        assert trajectory.info is not None and batch.info is not None
        cost = trajectory.info["cost"]
        assert cost.dtype == torch.float32 and cost.shape == trajectory.rewards.shape and bool(cost.any())
        assert torch.equal(cost, 2.0 * trajectory.actions * trajectory.valid)
        assert torch.equal(batch.info["cost"] * batch.weights, 2.0 * batch.actions * batch.weights)
    alone = run_config(config(zoo, seeds=(1,)), zoo, home=home)
    for name, value in alone.policy(1).params.items():  # the seed law
        assert torch.equal(value, result.policy(1).params[name])


def test_a_resumed_run_equals_an_uninterrupted_one(zoo: PluginCatalog, home: Home) -> None:
    whole = run_config(config(zoo, total_steps=200), zoo, home=home)
    parts = run_config(config(zoo), zoo, home=home)
    [found] = find(parts.group, home)
    resumed = resume([found], zoo, total_steps=200, home=home)
    assert resumed.runs[0].env_steps == whole.runs[0].env_steps
    for name, value in whole.policy(0).params.items():
        assert torch.equal(value, resumed.policy(0).params[name])
    assert reproduce(found, zoo).first is None


def test_an_estimator_receives_info_values(zoo: PluginCatalog, home: Home) -> None:
    settings = config(zoo, "blind", estimator="costs-to-go")
    engine = Engine(make_plan(settings, zoo))
    state, trajectory = engine.collect(engine.state)
    assert trajectory.info is not None
    returns = engine.estimate(state, trajectory).returns
    engine.close()
    assert torch.equal(returns[:, 0], -trajectory.info["cost"].sum(-2))


def test_info_needs_that_cannot_be_met_are_refused_before_the_run(zoo: PluginCatalog) -> None:
    with pytest.raises(pgzoo.PgzooError, match=r'environment "CartPole-v1" has no info\["cost"\] in a step'):
        make_plan(config(zoo, env="CartPole-v1"), zoo)  # `auto` doesn't choose native
    with pytest.raises(UnfitError, match=r'Backend "native" can\'t run .* it doesn\'t return info\["cost"\]'):
        make_plan(config(zoo, env="CartPole-v1", backend="native"), zoo)
    with pytest.raises(PluginError, match=r'"misspelt" declares the unknown need "info:"\. .*info:KEY'):
        make_plan(config(zoo, "misspelt"), zoo)
    Engine(make_plan(config(zoo, "frugal", estimator="takes-info"), zoo)).close()  # the algorithm declares the need
    with pytest.raises(UnfitError, match="requires the argument info"):
        Engine(make_plan(config(zoo, "blind", estimator="takes-info"), zoo))


def test_the_example_in_the_docs_runs(home: Home) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
    [code] = [block for block in re.findall("```python\n(.*?)```", page, re.S) if "class PenalizedReinforce" in block]
    names: dict[str, Any] = {"__name__": "penalized"}
    exec(code, names)
    env = lambda: names["CostOfPosition"](gym.make("CartPole-v1"))  # noqa: E731
    found: list[Any] = []

    def metrics(event: Any) -> None:
        found.append(getattr(event, "metrics", {}).get("cost/mean"))

    algorithm = names["PenalizedReinforce"]
    result = pgzoo.run(algorithm, env=env, callbacks=[metrics], **SHORT | {"total_steps": 300, "penalty": 2.0})
    assert result.status == "finished" and result.plan.config.backend == "sync"
    assert any(value is not None and 0 < float(value[0]) < 2.4 for value in found)
