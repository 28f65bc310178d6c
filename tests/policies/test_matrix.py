"""Every policy with every pair of spaces: acting agrees with learning, or an error says why they don't fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Tuple

from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.ops.acting import actor_for, memory_size
from pgzoo.ops.draws import draw_noise
from pgzoo.registry import PluginCatalog
from pgzoo.registry.components import resolve_component
from pgzoo.testing.probes import OBSERVATIONS, SPACES
from pgzoo.training.events import Event, RunEnded
from pgzoo.types import ActorInputs, Inputs, Params

Build = Callable[..., Any]

POLICIES: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (5,), "init": "default"},
    "linear": {"init": "default"},
    "tabular": {},
    "gru": {"hidden": (5,), "memory": 7, "init": "default"},
    "lstm": {"hidden": (), "memory": 3, "init": "default"},
    "gtrxl": {"width": 6, "heads": 3, "memory": 3, "blocks": 2, "init": "default"},
    "net": {},
    "net-vmap": {},
    "simba": {"width": 5, "init": "default"},
    "cnn": {"filters": (3, 2), "hidden": (5,), "init": "default"},
    "impala-cnn": {"filters": (2,), "hidden": (), "init": "default", "critic": "separate"},
    "uniform": {},
}
FIRST = {"tabular": "discrete", "cnn": "matrix", "impala-cnn": "matrix"}
"""An observation space that fits the policy; for other policies it is "discrete"."""
STEPS, ENVS, MEMBERS = 4, 3, 2


@pytest.fixture
def build(catalog: PluginCatalog) -> Build:
    def policy(name: str, observation: str, action: str, needs: Any = ("value",), **settings: Any) -> Any:
        component, factory = resolve_component("policy", {"name": name, **POLICIES[name], **settings}, catalog)
        needed = frozenset() if name == "uniform" else frozenset(needs)
        return factory(component.settings, make_spec(OBSERVATIONS[observation], SPACES[action]), needed)

    return policy


def members(policy: Any) -> Params:
    """Return perturbed initial parameters, so that none has a special value such as 0."""
    each = [policy.init(np.random.default_rng(seed)) for seed in range(MEMBERS)]
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    rng = np.random.default_rng(9)
    return {
        name: value + torch.from_numpy(0.3 * rng.standard_normal(value.shape)).float()
        for name, value in stacked.items()
    }


def agree(policy: Any, space: gym.Space[Any], action: gym.Space[Any]) -> None:
    """Check that acting step by step agrees with evaluating the same sequence at once."""
    space = make_spec(space, action).observation_space
    space.seed(0)
    views = [space.sample() for _ in range(MEMBERS * STEPS * ENVS)]
    obs = np.array(views).reshape(MEMBERS, STEPS, ENVS, *(space.shape or ()))
    rng, params, size = np.random.default_rng(1), members(policy), memory_size(policy)
    noise = draw_noise(policy.noise, rng, (MEMBERS, STEPS, ENVS, policy.noise_size))
    starts = rng.random((MEMBERS, STEPS, ENVS)) < 0.4
    first = rng.standard_normal((MEMBERS, ENVS, size)).astype(np.float32) if size else None
    mask = None
    if not isinstance(action, gym.spaces.Box):
        mask = rng.random((MEMBERS, STEPS, ENVS, policy.head.outputs)) < 0.7
        mask |= ~mask.any(-1, keepdims=True)
        if policy.head.family.name == "multi-categorical":
            mask[..., :2] |= ~mask[..., :2].any(-1, keepdims=True)
            mask[..., 2:] |= ~mask[..., 2:].any(-1, keepdims=True)

    def tensor(array: Any) -> Any:
        return None if array is None else torch.from_numpy(array)

    sequence = Inputs(tensor(obs), tensor(mask), tensor(first), tensor(starts) if size else None)
    with torch.no_grad():
        output = policy.apply(params, sequence)
    dist: Any = output.dist
    actor, memory = actor_for(policy, params), first
    for t in range(STEPS):
        seen = ActorInputs(obs[:, t], None if mask is None else mask[:, t], memory, starts[:, t])
        drawn, after = actor(seen, noise[:, t])
        best, _ = actor(seen, None)
        np.testing.assert_allclose(drawn, dist.draw(noise)[:, t], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(best, dist.mode()[:, t], rtol=1e-4, atol=1e-5)
        for sample in (*policy.to_env(drawn).reshape(-1, *(action.shape or ())), *policy.to_env(best[0])):
            assert action.contains(sample if action.shape else sample.item() if action.dtype is None else sample)
        memory = after
    if size:
        assert output.memory is not None and memory is not None
        np.testing.assert_allclose(memory, output.memory, rtol=1e-4, atol=1e-5)
    shape = (MEMBERS, STEPS, ENVS)
    assert torch.isfinite(dist.log_prob(torch.from_numpy(dist.draw(noise)))).all()
    assert dist.log_prob(torch.from_numpy(dist.draw(noise))).shape == dist.entropy().shape == shape
    assert output.value is None if not params else output.value.shape == shape


def fits(policy: str, observation: str) -> bool:
    if policy.endswith("cnn"):
        return observation in ("matrix", "image", "image-and-vector")
    if policy == "tabular":
        return isinstance(OBSERVATIONS[observation], Discrete)
    return observation != "image-and-vector" or policy == "uniform"


def pairs(policies: Iterable[str], actions: Iterable[str], whole: str) -> list[Any]:
    """Return all pairs; `make test` runs only those of the policy `whole` and those of two action spaces."""
    return [
        pytest.param(
            policy, action, marks=[] if policy == whole or action in ("discrete", "vector") else [pytest.mark.slow]
        )
        for policy, action in product(policies, actions)
    ]


@pytest.mark.parametrize(("policy", "action"), pairs(POLICIES, SPACES, "mlp"))
def test_acting_agrees_with_learning_in_every_pair_of_spaces_that_fits(build: Build, policy: str, action: str) -> None:
    for observation, space in OBSERVATIONS.items():
        if not fits(policy, observation):
            with pytest.raises(UnfitError, match=r"policy .* doesn't fit the (observation|action) space"):
                build(policy, observation, action)
        elif action in ("tuple", "dict"):
            with pytest.raises(UnfitError, match=r"doesn't fit the action space (Tuple|Dict)"):
                build(policy, observation, action)
        else:
            agree(build(policy, observation, action), space, SPACES[action])


DISTRIBUTIONS = ("categorical", "multi-categorical", "bernoulli", "gaussian", "tanh", "beta")
FITTING = {Box: DISTRIBUTIONS[3:], Discrete: ("categorical",), gym.spaces.MultiDiscrete: ("multi-categorical",)}


def why_not(action: str, distribution: str, state_std: bool, rescale: bool) -> str:
    space = SPACES[action]
    if distribution not in FITTING.get(type(space), ("bernoulli",)):
        return "doesn't fit the action space"
    if state_std and distribution not in ("gaussian", "tanh"):
        return "has no standard deviation"
    if action == "wide" and (rescale or distribution != "gaussian"):
        return "has no finite bounds"
    return ""


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "uniform"])
@pytest.mark.parametrize("state_std", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_each_distribution_fits_or_the_error_says_why_not(
    build: Build, policy: str, state_std: bool, rescale: bool
) -> None:
    asked = {"state_std": state_std, "rescale": rescale}
    observation = FIRST.get(policy, "discrete")
    for action in (name for name in SPACES if name not in ("tuple", "dict")):
        for distribution in DISTRIBUTIONS:
            reason = why_not(action, distribution, state_std, rescale)
            if reason:
                with pytest.raises(UnfitError, match=reason):
                    build(policy, observation, action, distribution=distribution, **asked)
            else:
                made = build(policy, observation, action, distribution=distribution, **asked)
                agree(made, SPACES[observation], SPACES[action])


@pytest.mark.parametrize("policy", ["mlp", "linear", "simba", "gru", "lstm", "gtrxl", "cnn", "impala-cnn"])
def test_sde_works_with_the_gaussians_of_every_policy_that_has_features(build: Build, policy: str) -> None:
    observation = FIRST.get(policy, "vector")
    for action in ("vector", "one", "matrix", "wide"):
        for distribution in ("gaussian",) if action == "wide" else ("gaussian", "tanh"):
            made = build(policy, observation, action, distribution=distribution, sde=True)
            assert made.noise_steps == 4
            agree(made, OBSERVATIONS[observation], SPACES[action])
    with pytest.raises(UnfitError, match='the distribution "beta" has no standard deviation; remove sde'):
        build(policy, observation, "vector", distribution="beta", sde=True)
    with pytest.raises(UnfitError, match=r"sde and state_std are two ways .* remove one of them"):
        build(policy, observation, "vector", sde=True, state_std=True)


ACTIONS = [name for name in SPACES if name not in ("tuple", "dict")]


@pytest.mark.parametrize(
    ("policy", "action"), pairs(["linear", "tabular", "gru", "lstm", "gtrxl", "net-vmap"], ACTIONS, "linear")
)
def test_policies_train_in_every_action_space(play: Callable[..., list[Event]], policy: str, action: str) -> None:
    spaces = {"observation": "discrete", "action": action}
    settings = {"num_envs": 2, "total_steps": 40, "eval_episodes": 2, "policy": {"name": policy, **POLICIES[policy]}}
    last = play("a2c", "probe/AnySpaces-v0", env_kwargs=spaces, **settings)[-1]
    assert isinstance(last, RunEnded) and last.statuses == ("finished",)


def test_policies_for_vectors_refuse_images_and_a_module_accepts_them(build: Build, catalog: PluginCatalog) -> None:
    images = make_spec(Box(0, 255, (16, 16, 3), np.uint8), Discrete(2))
    for name in ("mlp", "linear", "gru", "lstm", "gtrxl"):
        component, factory = resolve_component("policy", name, catalog)
        with pytest.raises(UnfitError, match=f'policy "{name}" .*not images'):
            factory(component.settings, images, frozenset())
    component, factory = resolve_component("policy", "net", catalog)
    assert factory(component.settings, images, frozenset()).inputs == (16, 16, 3)


# simple policies, compared with values computed by hand


def test_a_table_has_a_row_per_state_and_gradients_only_for_observed_states(build: Build) -> None:
    policy = build("tabular", "shifted", "discrete")
    params = {name: torch.stack([value] * 2) for name, value in policy.init(np.random.default_rng(0)).items()}
    assert {name: tuple(value.shape) for name, value in params.items()} == {"table": (2, 3, 3), "critic.table": (2, 3)}
    assert not any(value.any() for value in params.values())
    params["table"][1, 0] = torch.tensor([1.0, 2.0, 3.0])
    params["critic.table"][1] = torch.tensor([10.0, 20.0, 30.0])
    obs = torch.tensor([[[-1, 1]], [[-1, 1]]])
    table = params["table"].requires_grad_()
    output = policy.apply(params, Inputs(obs))
    assert output.dist.logits[1, 0].tolist() == [[1, 2, 3], [0, 0, 0]]
    assert output.value.tolist() == [[[0, 0]], [[10, 30]]]
    output.dist.logits[1, 0, 0].sum().backward()
    assert table.grad is not None
    assert table.grad.tolist() == [[[0] * 3] * 3, [[1] * 3, [0] * 3, [0] * 3]]


@pytest.mark.parametrize(
    ("action", "entropy"),
    [("discrete", np.log(3)), ("multi-discrete", np.log(6)), ("multi-binary", np.log(16)), ("vector", 0.0)],
)
def test_the_uniform_policy_draws_uniform_actions(build: Build, action: str, entropy: float) -> None:
    policy, obs = build("uniform", "vector", action), torch.zeros(1, 1, 20_000, 3)
    dist = policy.apply({}, Inputs(obs)).dist
    torch.testing.assert_close(dist.entropy(), torch.full((1, 1, 20_000), entropy), rtol=1e-5, atol=1e-5)
    noise = draw_noise(policy.noise, np.random.default_rng(0), (1, 20_000, policy.noise_size))
    drawn = policy.to_env(policy.actor({})(ActorInputs(obs.numpy()[0]), noise)[0])[0].astype(float)
    drawn = drawn.reshape(20_000, -1)
    low, high = {"discrete": (0, 2), "multi-discrete": (0, [1, 2]), "multi-binary": (0, 1), "vector": (-1, 1)}[action]
    assert drawn.mean(0) == pytest.approx((np.array(low) + high) / 2 * np.ones(drawn.shape[1]), abs=0.03)
    if action == "vector":
        assert np.histogram(drawn[:, 0], 10, (-1, 1))[0] == pytest.approx(np.full(10, 2000), abs=200)


def test_uniform_obeys_the_mask_and_is_normal_in_an_unbounded_box(build: Build) -> None:
    policy = build("uniform", "vector", "discrete")
    mask = np.tile([True, False, True], (1, 3000, 1))
    noise = draw_noise(policy.noise, np.random.default_rng(0), (1, 3000, 1))
    drawn = policy.actor({})(ActorInputs(np.zeros((1, 3000, 3), np.float32), mask), noise)[0]
    assert np.bincount(drawn[0], minlength=3) == pytest.approx([1500, 0, 1500], abs=120)
    policy = build("uniform", "vector", "wide")
    noise = draw_noise(policy.noise, np.random.default_rng(0), (1, 3000, 2))
    drawn = policy.to_env(policy.actor({})(ActorInputs(np.zeros((1, 3000, 3), np.float32)), noise)[0])
    assert drawn.std() == pytest.approx(1, abs=0.03) and drawn.mean() == pytest.approx(0, abs=0.04)


def test_a_run_without_parameters_finishes(play: Callable[..., list[Event]]) -> None:
    last = play("windows", "probe/Bandit-v0", policy="uniform", total_steps=600, seeds=2)[-1]
    assert isinstance(last, RunEnded) and last.statuses == ("finished", "finished")
    assert last.state.params == {}


def test_uniform_is_refused_by_an_algorithm_that_trains_a_critic(plan: Callable[..., Any]) -> None:
    with pytest.raises(UnfitError, match=r'"uniform" has no parameters, but the algorithm has to train some \(value\)'):
        plan("a2c", policy="uniform")


class Typed(gym.Env[Any, Any]):
    """The same observations in a space of the given type: a category, several, or one or several numbers."""

    action_space = Discrete(2)

    def __init__(self, kind: str, dtype: str) -> None:
        of: Any = np.dtype(dtype).type
        make: dict[str, Callable[[], gym.Space[Any]]] = {
            "category": lambda: Discrete(101, start=0 if dtype.startswith("u") else -50, dtype=of),
            "pair": lambda: Tuple((Discrete(3, dtype=of), Discrete(4, dtype=of))),
            "choices": lambda: MultiDiscrete([3, 4], dtype=of),
            "number": lambda: Box(0, 60_000, (), of),
            "numbers": lambda: Box(0, 60_000, (2,), of),
        }
        self.observation_space, self.kind, self.dtype = make[kind](), kind, of

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._obs(), float(action), self.t == 5, False, {}

    def _obs(self) -> Any:
        place = self.np_random.random(2)
        if self.kind == "category":
            return self.dtype(int(self.observation_space.start) + int(101 * place[0]))  # type: ignore[attr-defined]
        if self.kind == "number":
            return np.asarray(place[0] * (1 if self.dtype is np.float32 else 60_000), self.dtype)
        if self.kind == "numbers":
            return (60_000 * place).astype(self.dtype)
        pair = (place * (3, 4)).astype(self.dtype)
        return tuple(pair) if self.kind == "pair" else pair


gym.register("probe/Typed-v0", Typed)

TYPES = {
    "category": ("int8", "int32", "uint16", "uint32", "uint64"),
    "pair": ("uint16",),
    "choices": ("uint16", "uint32"),
    "number": ("uint16",),
    "numbers": ("uint16", "uint32", "uint64"),
}


@pytest.mark.parametrize(
    ("kind", "algorithm", "policy", "settings"),
    [
        ("category", "reinforce", "mlp", {}),
        ("category", "reinforce", "tabular", {}),
        ("category", "a2c", "tabular", {}),
        ("category", "ppo", "gru", {"minibatches": 2}),
        ("pair", "reinforce", "mlp", {}),
        ("choices", "ppo", "mlp", {"minibatches": 2}),
        ("number", "reinforce", "mlp", {}),
        ("numbers", "reinforce", "mlp", {}),
        ("numbers", "ppo", "mlp", {"minibatches": 2, "normalize_obs": True}),
        ("numbers", "impala", "gru", {"lag": 1}),
        ("numbers", "ppg", "mlp", {"policy_phases": 2}),
    ],
)
def test_training_gives_the_same_policy_whatever_the_integer_type_of_observations(
    last_state: Callable[..., Any], kind: str, algorithm: str, policy: str, settings: dict[str, Any]
) -> None:
    shared = {"num_envs": 2, "total_steps": 40, "eval_episodes": 2, "policy": {"name": policy, **POLICIES[policy]}}
    shared |= {"rollout_steps": 10} if algorithm != "reinforce" else {}

    def trained(dtype: str) -> Any:
        return last_state(algorithm, "probe/Typed-v0", env_kwargs={"kind": kind, "dtype": dtype}, **shared, **settings)

    expected = trained("int64").params
    for dtype in TYPES[kind]:
        torch.testing.assert_close(trained(dtype).params, expected)


@pytest.mark.parametrize(("algorithm", "settings"), [("impala", {"lag": 1}), ("ppg", {"policy_phases": 2})])
def test_observations_of_a_single_number_are_stored_unrounded(
    last_state: Callable[..., Any], algorithm: str, settings: dict[str, Any]
) -> None:
    kwargs = {"kind": "number", "dtype": "float32"}
    short = {"num_envs": 2, "total_steps": 20, "eval_episodes": 1, "rollout_steps": 10, "policy": "linear"}
    buffers = last_state(algorithm, "probe/Typed-v0", env_kwargs=kwargs, **short, **settings).buffers
    stored = next(value for name, value in buffers.items() if name.endswith("obs"))
    assert stored.dtype == torch.float32 and len(stored[stored != stored.round()]) >= 20
