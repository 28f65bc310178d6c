"""The mlp policy: acting agrees with learning, for each kind of space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.registry import PluginCatalog
from pgzoo.registry.components import resolve_component
from pgzoo.types import ActorInputs, Inputs, Params

OBSERVATIONS = {
    "vector": Box(-1.0, 1.0, (3,)),
    "doubles": Box(-1.0, 1.0, (3,), np.float64),
    "matrix": Box(-1.0, 1.0, (2, 3)),
    "discrete": Discrete(5),
    "shifted": Discrete(5, start=-2),
}
ACTIONS = {
    "two": Discrete(2),
    "four": Discrete(4),
    "tuple": MultiDiscrete([2, 3]),
    "bits": MultiBinary(3),
    "number": Box(-1.0, 1.0, (1,)),
    "numbers": Box(-1.0, 1.0, (2, 2)),
}
Build = Callable[..., Any]


@pytest.fixture
def build(catalog: PluginCatalog) -> Build:
    def policy(observation: gym.Space[Any], action: gym.Space[Any], **settings: Any) -> Any:
        component, factory = resolve_component("policy", {"name": "mlp", **settings}, catalog)
        return factory(component.settings, make_spec(observation, action), frozenset())

    return policy


def act(policy: Any, params: Params, obs: Any, noise: Any = None) -> Any:
    return policy.actor(params)(ActorInputs(obs), noise)[0]


def members(policy: Any, count: int) -> Params:
    each = [policy.init(np.random.default_rng(seed)) for seed in range(count)]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def observed(space: gym.Space[Any], *shape: int) -> Any:
    space.seed(0)
    return np.array([space.sample() for _ in range(int(np.prod(shape)))]).reshape(*shape, *(space.shape or ()))


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("hidden", [(), (5,), (8, 8)])
def test_the_greedy_action_is_the_mode_of_the_learned_distribution(
    build: Build, observation: str, action: str, hidden: tuple[int, ...]
) -> None:
    policy = build(OBSERVATIONS[observation], ACTIONS[action], hidden=hidden, init="default")
    params, obs = members(policy, 2), observed(OBSERVATIONS[observation], 2, 7)
    acted = act(policy, params, obs)
    dist = policy.apply(params, Inputs(torch.from_numpy(obs).unsqueeze(1))).dist  # [S, 1, B]
    learned = torch.from_numpy(dist.mode())
    torch.testing.assert_close(torch.from_numpy(acted).unsqueeze(1), learned, rtol=1e-5, atol=1e-6)
    assert all(ACTIONS[action].contains(a) for a in policy.to_env(acted[0]))
    assert dist.log_prob(torch.from_numpy(acted).unsqueeze(1)).shape == (2, 1, 7)


def test_discrete_observations_are_encoded_relative_to_the_start_of_the_space(build: Build) -> None:
    plain, shifted = (build(OBSERVATIONS[name], Discrete(4), init="default") for name in ("discrete", "shifted"))
    params, cells = members(plain, 1), np.arange(5).reshape(1, 5)
    rows = torch.from_numpy(cells).unsqueeze(1)
    torch.testing.assert_close(
        plain.apply(params, Inputs(rows)).dist.logits, shifted.apply(params, Inputs(rows - 2)).dist.logits
    )
    assert act(plain, params, cells).tolist() == act(shifted, params, cells - 2).tolist()


def test_the_actor_sees_in_place_updates_of_parameters(build: Build) -> None:
    policy = build(OBSERVATIONS["vector"], Discrete(2), hidden=())
    params = members(policy, 1)
    actor, obs = policy.actor(params), np.zeros((1, 1, 3), np.float32)
    for action in (0, 1, 0):
        params["bias.0"][0] = torch.tensor([1.0, -1.0] if action == 0 else [-1.0, 1.0])
        assert actor(ActorInputs(obs), None)[0].item() == action


def test_continuous_actions_are_drawn_with_the_parameter_log_std(build: Build) -> None:
    policy = build(OBSERVATIONS["vector"], ACTIONS["number"], log_std=-1.0)
    params = members(policy, 2)
    assert params["log_std"].tolist() == [[-1.0], [-1.0]]
    obs = np.zeros((2, 3, 3), np.float32)
    drawn = act(policy, params, obs, np.ones((2, 3, 1), np.float32))
    assert drawn - act(policy, params, obs) == pytest.approx(np.exp(-1.0))


def test_first_actions_are_nearly_uniform(build: Build) -> None:
    policy = build(OBSERVATIONS["vector"], Discrete(4))
    obs = torch.from_numpy(observed(OBSERVATIONS["vector"], 3, 50)).unsqueeze(1)
    entropy = policy.apply(members(policy, 3), Inputs(obs)).dist.entropy()
    assert float(entropy.detach().min()) > 0.999 * np.log(4)


@pytest.mark.parametrize(
    ("observation", "action", "said"),
    [
        (Box(0, 255, (84, 84, 3), np.uint8), Discrete(2), "doesn't fit the observation space .*not images"),
        (Box(-1, 1, (3,)), gym.spaces.Text(4), "doesn't fit the action space Text"),
        (Box(-1, 1, (3,)), Box(0, 5, (2,), np.int64), "floating-point Box"),
    ],
)
def test_unsupported_spaces_are_refused_with_a_reason(build: Build, observation: Any, action: Any, said: str) -> None:
    with pytest.raises(UnfitError, match=f'policy "mlp" .*{said}.*'):
        build(observation, action)
