"""Policies for images: shapes, values computed by hand, observations kept as bytes, the seed law, and learning."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from torch import Tensor

from pgzoo.envs.choice import inspect_environment
from pgzoo.envs.single import make_single
from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.export.bundle import load_policy, pack
from pgzoo.ops.entries import PackedSpace
from pgzoo.ops.images import conv_stack, recomputed_in_backward
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.ops.normalize import NormalizedPolicy
from pgzoo.registry import PluginCatalog
from pgzoo.registry.components import resolve_component
from pgzoo.training.events import Evaluated, RunEnded
from pgzoo.types import ActorInputs, EnvRequest, Inputs

Build = Callable[..., Any]


def pixels(*shape: int) -> Box:
    return Box(0, 255, shape, np.uint8)


@pytest.fixture
def build(catalog: PluginCatalog) -> Build:
    def policy(space: gym.Space[Any], name: str = "cnn", needs: Any = ("value",), **settings: Any) -> Any:
        component, factory = resolve_component("policy", {"name": name, **settings}, catalog)
        return factory(component.settings, make_spec(space, Discrete(2)), frozenset(needs))

    return policy


def stacked(policy: Any, count: int = 1) -> dict[str, Tensor]:
    each = [policy.init(np.random.default_rng(seed)) for seed in range(count)]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


@pytest.mark.parametrize(
    ("name", "shape", "filters", "convs", "features"),
    [
        # kernel and stride of each convolution; (84 - 8) / 4 + 1 = 20, (20 - 4) / 2 + 1 = 9, (9 - 3) / 1 + 1 = 7
        ("nature", (4, 84, 84), (32, 64, 64), [(8, 8, 4), (4, 4, 2), (3, 3, 1)], 64 * 7 * 7),
        ("nature", (3, 16, 20), (32, 64, 64), [(3, 3, 2), (3, 3, 2), (3, 3, 1)], 64 * 1 * 2),
        ("nature", (4, 10, 10), (32, 64, 64), [(3, 3, 1), (3, 3, 1), (3, 3, 1)], 64 * 4 * 4),
        ("nature", (3, 7, 7), (8, 8), [(3, 3, 1), (3, 3, 1)], 8 * 3 * 3),
        ("nature", (1, 4, 7), (8, 8, 8), [(3, 3, 1), (2, 3, 1), (1, 3, 1)], 8 * 1 * 1),
        ("impala", (3, 64, 64), (16, 32, 32), [(3, 3, 1)] * 15, 32 * 8 * 8),
        ("impala", (3, 7, 7), (16, 32, 32), [(3, 3, 1)] * 15, 32 * 1 * 1),
    ],
)
def test_kernels_and_strides_are_reduced_for_small_images(
    name: Any, shape: Any, filters: tuple[int, ...], convs: list[Any], features: int
) -> None:
    stack = conv_stack(name, shape, filters)
    assert [(*conv.kernel, conv.stride) for conv in stack.convs] == convs
    assert stack.features == features
    params = stack.init(np.random.default_rng(0), "orthogonal", "")
    assert stack.apply(params, "", torch.zeros(2, *shape)).shape == (2, features)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((84, 84), (1, 84, 84)),
        ((84, 84, 3), (3, 84, 84)),
        ((3, 84, 84), (3, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),  # four stacked gray frames
        ((4, 96, 96, 3), (12, 96, 96)),  # four stacked frames with colors
        ((4, 3, 96, 96), (12, 96, 96)),
        ((7, 7, 3), (3, 7, 7)),
        ((10, 10, 10), (10, 10, 10)),
    ],
)
def test_channels_and_stacked_frames_are_detected(build: Build, shape: tuple[int, ...], size: Any) -> None:
    policy = build(pixels(*shape), filters=(2,), hidden=())
    assert policy.inputs.sizes == {"image": size}
    image = torch.from_numpy(pixels(*shape).sample())
    read = policy.inputs.read({"image": image[None]}, "image")
    frames = image if len(shape) == 4 else image[None]
    if frames.ndim == 4 and frames.shape[1] >= frames.shape[3]:  # the channels are last
        frames = frames.permute(0, 3, 1, 2)
    torch.testing.assert_close(read[0], frames.reshape(size).float() / 255)


def test_the_channel_order_can_be_set(build: Build) -> None:
    assert build(pixels(5, 9, 9), channel_order="last").inputs.sizes == {"image": (9, 5, 9)}
    assert build(pixels(9, 9, 5), channel_order="first").inputs.sizes == {"image": (9, 9, 5)}


def test_a_forward_pass_matches_values_computed_by_hand(build: Build) -> None:
    """One 2 x 2 filter over a 2 x 2 image, one hidden unit, and a shared critic."""
    policy = build(pixels(2, 2), filters=(1,), hidden=(1,))
    params = stacked(policy)
    shapes = {name: list(value.shape[1:]) for name, value in params.items()}
    assert shapes == {
        "image.0.weight.0": [1, 1, 2, 2],
        "image.0.bias.0": [1],
        "hidden.weight.0": [1, 1],
        "hidden.bias.0": [1],
        "weight.0": [1, 2],
        "bias.0": [2],
        "critic.weight.0": [1, 1],
        "critic.bias.0": [1],
    }
    params["image.0.weight.0"] = torch.tensor([[[[[1.0, 2.0], [3.0, -1.0]]]]])
    params["image.0.bias.0"] = torch.tensor([[0.5]])
    params["hidden.weight.0"], params["hidden.bias.0"] = torch.tensor([[[2.0]]]), torch.tensor([[1.0]])
    params["weight.0"], params["bias.0"] = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[0.0, 0.25]])
    params["critic.weight.0"], params["critic.bias.0"] = torch.tensor([[[10.0]]]), torch.tensor([[3.0]])
    obs = torch.tensor([[255, 0], [51, 255]], dtype=torch.uint8)[None, None, None]
    output = policy.apply(params, Inputs(obs))
    hidden = 2 * (1 + 3 * 0.2 - 1 + 0.5) + 1
    torch.testing.assert_close(output.dist.logits, torch.tensor([[[[hidden, 0.25 - hidden]]]]))
    torch.testing.assert_close(output.value, torch.tensor([[[10 * hidden + 3]]]))
    dark = policy.apply(params, Inputs(torch.zeros_like(obs)))
    torch.testing.assert_close(dark.value, torch.tensor([[[10 * (2 * 0.5 + 1) + 3]]]))


def test_a_residual_block_adds_to_its_input() -> None:
    stack = conv_stack("impala", (1, 2, 2), (1,))
    params = stack.init(np.random.default_rng(0), "default", "")
    image = torch.rand(1, 1, 2, 2)
    pooled = F.max_pool2d(F.conv2d(image, params["weight.0"], params["bias.0"], padding=1), 3, 2, 1)
    for i in range(1, 5):
        params[f"weight.{i}"][:], params[f"bias.{i}"][:] = 0.0, 0.0
    torch.testing.assert_close(stack.apply(params, "", image), torch.relu(pooled).flatten(1))
    params["bias.2"][:], params["bias.4"][:] = 2.0, 3.0
    torch.testing.assert_close(stack.apply(params, "", image), torch.relu(pooled + 5).flatten(1))


def test_weights_are_orthogonal_and_first_actions_nearly_uniform(build: Build) -> None:
    policy = build(pixels(10, 10, 4), filters=(8, 8), hidden=(16,))
    params = stacked(policy)
    for name, gain in (("image.0.weight.0", 2.0), ("image.0.weight.1", 2.0)):
        flat = params[name][0].flatten(1)
        torch.testing.assert_close(flat @ flat.T, gain * torch.eye(8), atol=1e-5, rtol=1e-5)
    obs = torch.randint(0, 256, (1, 1, 32, 10, 10, 4), dtype=torch.uint8)
    assert float(policy.apply(params, Inputs(obs)).dist.entropy().min()) > 0.999 * np.log(2)


def test_only_integer_images_are_divided(build: Build) -> None:
    obs = torch.full((1, 4, 4, 2), 51.0)
    for space, divide_by, expected in (
        (pixels(4, 4, 2), 255, 0.2),
        (pixels(4, 4, 2), 10, 5.1),
        (Box(-1, 1, (4, 4, 2)), 255, 51.0),
    ):
        inputs = build(space, filters=(1,), divide_by=divide_by).inputs
        assert inputs.vector_size == 0
        torch.testing.assert_close(inputs.read({"image": obs}, "image"), torch.full((1, 2, 4, 4), expected))


@pytest.mark.parametrize("space", [Box(-1, 1, (3,)), Discrete(4), Dict({"a": Box(-1, 1, (3,)), "b": Discrete(2)})])
@pytest.mark.parametrize("name", ["cnn", "impala-cnn"])
def test_observations_without_an_image_are_refused(build: Build, name: str, space: Any) -> None:
    with pytest.raises(UnfitError, match=f'policy "{name}" doesn\'t fit the observation space .*contains no image'):
        build(space, name)


# Dicts and Tuples with images

CAMERA = Dict(
    {
        "camera": pixels(16, 16, 1),
        "hand": Tuple((Discrete(3), Box(-np.inf, np.inf, (2,)))),
        "map": pixels(5, 5, 2),
        "mission": Text(8),
    }
)


def camera_obs() -> dict[str, Any]:
    return {
        "camera": np.arange(256, dtype=np.uint8).reshape(16, 16, 1),
        "hand": (2, np.array([0.1, -3e30], np.float32)),
        "map": np.arange(50, dtype=np.uint8).reshape(5, 5, 2),
        "mission": "go",
    }


def test_dict_entries_are_packed_as_bytes_and_read_back_exactly(build: Build) -> None:
    spec = make_spec(CAMERA, Discrete(2))
    assert spec.dropped == ("mission (Text)",)
    space = spec.observation_space
    assert isinstance(space, PackedSpace) and space.shape == (4 * (5 + 50) + 256,) and space.dtype == np.uint8
    packed = space.pack(camera_obs())
    assert space.contains(packed) and not space.contains(packed[:-1])
    policy = build(CAMERA, filters=(2,), hidden=(4,))
    assert policy.inputs.sizes == {"camera": (1, 16, 16), "map": (2, 5, 5)}
    assert policy.inputs.vector_size == 5
    parts = {k: v[0] for k, v in policy.inputs.parts(torch.from_numpy(packed)[None, None, None]).items()}
    images = {name: policy.inputs.read(parts, name) for name in ("camera", "map")}
    assert parts["vector"].tolist() == [[0.0, 0.0, 1.0, np.float32(0.1), np.float32(-3e30)]]
    torch.testing.assert_close(images["camera"], torch.arange(256.0).reshape(1, 1, 16, 16) / 255)
    torch.testing.assert_close(images["map"], torch.arange(50.0).reshape(1, 5, 5, 2).permute(0, 3, 1, 2) / 255)


def test_a_small_image_beside_a_number_and_a_category_is_read_as_float32(build: Build) -> None:
    """Float32 and int64 are flattened to float64, which convolutions don't take."""
    space = Dict({"image": pixels(5, 5, 1), "kind": Discrete(2), "speed": Box(-1, 1, (1,))})
    policy, obs = build(space, filters=(1,), hidden=(2,)), {"kind": 1, "speed": np.ones(1, np.float32)}
    flat = gym.spaces.flatten(space, obs | {"image": np.full((5, 5, 1), 51, np.uint8)})
    assert isinstance(flat, np.ndarray) and flat.dtype == np.float64
    batch, params = torch.from_numpy(flat)[None, None, None], stacked(policy)
    parts = {name: value[0] for name, value in policy.inputs.parts(batch).items()}
    torch.testing.assert_close(policy.inputs.read(parts, "image"), torch.full((1, 1, 5, 5), 0.2))
    learned = policy.apply(params, Inputs(batch)).dist.mode()
    assert policy.actor(params)(ActorInputs(flat[None, None]), None)[0].tolist() == learned[0].tolist()


def test_images_are_told_apart_whatever_their_keys_are(build: Build) -> None:
    """One is named as the vector of the other entries, one has an empty key, and two would have the same name."""
    keys = ["vector", "", "arm.eye"]
    space = Dict({key: pixels(16, 16, 1) for key in keys} | {"arm": Dict({"eye": pixels(16, 16, 1)}), "x": Discrete(3)})
    obs: Any = {key: np.full((16, 16, 1), k, np.uint8) for k, key in enumerate(keys)}
    obs |= {"arm": {"eye": np.full((16, 16, 1), 3, np.uint8)}, "x": 2}
    spec = make_spec(space, Discrete(2))
    assert isinstance(spec.observation_space, PackedSpace)
    policy = build(space, filters=(1,), hidden=(2,))
    packed = torch.from_numpy(spec.observation_space.pack(obs))[None, None, None]
    parts = policy.inputs.parts(packed)
    assert parts.pop("vector").tolist() == [[[0, 0, 1]]]
    assert sorted(float(image.float().mean()) for image in parts.values()) == [0, 1, 2, 3]
    assert len(policy.inputs.sizes) == 4 and policy.inputs.sizes.keys() == parts.keys()
    assert policy.apply(stacked(policy), Inputs(packed)).value.shape == (1, 1, 1)


def test_stacked_images_in_a_dict_are_read_from_its_vector(build: Build) -> None:
    space = Dict({"frames": pixels(2, 16, 16, 3), "x": Box(-1, 1, (2,))})
    frames = pixels(2, 16, 16, 3).sample()
    flat = torch.from_numpy(gym.spaces.flatten(space, {"frames": frames, "x": np.array([0.5, -0.5], np.float32)}))
    policy = build(space, filters=(1,), hidden=(2,))
    parts = {name: value[0] for name, value in policy.inputs.parts(flat[None, None, None]).items()}
    expected = torch.from_numpy(frames).permute(0, 3, 1, 2).reshape(1, 6, 16, 16) / 255
    torch.testing.assert_close(policy.inputs.read(parts, "frames"), expected)
    assert parts["vector"].tolist() == [[0.5, -0.5]]


def test_small_images_are_read_from_a_flattened_dict(build: Build) -> None:
    space = Dict({"direction": Discrete(4), "image": pixels(7, 7, 3)})
    spec = make_spec(space, Discrete(2))
    assert spec.observation_space.shape == (151,)  # as for mlp
    policy = build(space, filters=(2,), hidden=(4,), divide_by=10)
    obs = {"direction": 1, "image": np.arange(147, dtype=np.uint8).reshape(7, 7, 3)}
    flat = torch.from_numpy(gym.spaces.flatten(space, obs))[None, None, None]
    parts = {name: value[0] for name, value in policy.inputs.parts(flat).items()}
    assert parts["vector"].tolist() == [[0, 1, 0, 0]]
    expected = torch.from_numpy(obs["image"]).permute(2, 0, 1)[None].float() / 10
    torch.testing.assert_close(policy.inputs.read(parts, "image"), expected)


def test_an_environment_packs_dicts_and_a_loaded_policy_accepts_them_unpacked(
    build: Build, catalog: PluginCatalog, tmp_path: Any
) -> None:
    gym.register("probe/Camera-v0", lambda: Camera())
    request = EnvRequest("probe/Camera-v0", {}, None, 1)
    spec = inspect_environment(request)
    env = make_single(request)
    packed, _ = env.reset(seed=0)
    assert isinstance(spec.observation_space, PackedSpace) and spec.observation_space.contains(packed)
    np.testing.assert_array_equal(packed, spec.observation_space.pack(camera_obs()))
    component, factory = resolve_component("policy", {"name": "cnn", "filters": (2,), "hidden": (4,)}, catalog)
    policy = factory(component.settings, spec, frozenset({"value"}))
    params = stacked(policy)
    for name, data in pack(component, spec, policy, params, 0).items():
        (tmp_path / name).write_bytes(data)
    loaded = load_policy(tmp_path, catalog)
    action = policy.actor(params)(ActorInputs(packed[None, None]), None)[0]
    assert loaded.act(camera_obs(), deterministic=True) == action[0, 0]


class Camera(gym.Env[Any, Any]):
    observation_space, action_space = CAMERA, Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return camera_obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return camera_obs(), 0.0, False, False, {}


def test_only_entries_that_are_not_images_are_normalized(build: Build) -> None:
    spec = make_spec(CAMERA, Discrete(2))
    inner = build(CAMERA, filters=(2,), hidden=(4,))
    policy = NormalizedPolicy(inner, spec)
    buffers = {name: value[None] for name, value in policy.buffers().items()}
    assert buffers["norm.mean"].shape == (1, 55)
    rng, space = np.random.default_rng(0), spec.observation_space
    obs = np.stack([space.pack(camera_obs() | {"hand": (0, rng.normal(5, 3, 2))}) for _ in range(6)])  # type: ignore[attr-defined]
    batch = torch.from_numpy(obs)[None, None]
    params = stacked(inner) | policy.absorb(buffers, batch, torch.ones(1, 1, 6, dtype=torch.bool))
    seen: list[Any] = []
    inner.inputs.parts = lambda obs, parts=inner.inputs.parts: seen.append(parts(obs)) or seen[-1]
    policy.apply(params, Inputs(batch))
    acted, learned = policy.actor(params)(ActorInputs(obs[None]), None)[0], policy.apply(params, Inputs(batch)).dist
    np.testing.assert_array_equal(acted, learned.mode()[:, 0])
    parts = {name: value[0] for name, value in seen[0].items()}
    torch.testing.assert_close(inner.inputs.read(parts, "map")[0, :, 0, 1], torch.tensor([2.0, 3.0]) / 255)
    vector = parts["vector"]
    torch.testing.assert_close(vector[:, 3:].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(vector[:, 3:].std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_normalizing_image_only_observations_is_refused(build: Build) -> None:
    for space in (pixels(16, 16, 3), pixels(7, 7, 3), Dict({"camera": pixels(16, 16, 3)})):
        with pytest.raises(UnfitError, match="are images only; remove --normalize-obs"):
            NormalizedPolicy(build(space), make_spec(space, Discrete(2)))


# bit-identical results


@pytest.mark.parametrize("name", ["cnn", "impala-cnn"])
def test_padding_and_other_members_leave_gradients_bit_identical(build: Build, name: str) -> None:
    policy = build(pixels(9, 9, 3), name, filters=(5,), hidden=(7,))
    params, rng = stacked(policy, 3), np.random.default_rng(0)
    obs = torch.from_numpy(rng.integers(0, 256, (3, 1, 2 * ROW_BLOCK, 9, 9, 3), np.uint8))

    def slopes(rows: slice, count: int) -> dict[str, Tensor]:
        leaves = {name: value[rows].clone().requires_grad_() for name, value in params.items()}
        output = policy.apply(leaves, Inputs(obs[rows, :, :count]))
        score = output.dist.log_prob(torch.ones(output.value.shape, dtype=torch.int64)) + output.value
        found = torch.autograd.grad(score[:, :, : ROW_BLOCK - 7].sum(), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    among, alone = slopes(slice(0, 3), 2 * ROW_BLOCK), slopes(slice(1, 2), ROW_BLOCK)
    assert all(torch.equal(among[name][1], alone[name][0]) for name in params)


def test_a_float_image_is_recomputed_in_the_backward_pass_instead_of_kept() -> None:
    pixels, weight = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8), torch.rand(3, 1, 3, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(F.conv2d(pixels / 255, weight).square().sum(), [weight])
    image = pixels / 255
    with recomputed_in_backward(image, lambda: pixels / 255):
        outputs = F.conv2d(image, weight)
    alive = weakref.ref(image)
    del image
    assert alive() is None
    (slope,) = torch.autograd.grad(outputs.square().sum(), [weight])
    assert torch.equal(slope, expected)


# learning

BRIGHT: dict[str, Any] = {
    "env": "probe/BrightSide-v0",
    "num_envs": 8,
    "rollout_steps": 32,
    "learning_rate": 3e-3,
    "total_steps": 2000,
    "eval_episodes": 50,
    "epochs": 5,
}


@pytest.mark.learning
@pytest.mark.slow  # the next test is harder
@pytest.mark.parametrize(
    ("name", "options"),
    [("cnn", {"filters": (4, 8), "hidden": (16,)}), ("impala-cnn", {"filters": (4, 4), "hidden": (16,)})],
)
def test_ppo_learns_to_name_the_brighter_side_of_an_image(play: Any, name: str, options: Any) -> None:
    events = play("ppo", policy={"name": name, **options}, seeds=2, **BRIGHT)
    last, evaluated = events[-1], [e for e in events if isinstance(e, Evaluated) and e.mode == "greedy"][-1]
    assert isinstance(last, RunEnded) and last.state.collector is not None
    assert last.state.collector.obs.dtype == np.uint8
    assert [float(returns.mean()) for returns in evaluated.returns] == [1.0, 1.0]


@pytest.mark.learning
def test_ppo_learns_to_combine_an_image_and_a_category(play: Any) -> None:
    """The other entry says whether to name the brighter or the darker half, so neither entry is enough alone."""
    policy = {"name": "cnn", "filters": (4, 8, 8), "hidden": (32,)}
    world = {"env_kwargs": {"side": 16, "entries": True}}
    events = play("ppo", policy=policy, seeds=1, **BRIGHT | world | {"total_steps": 6000})
    evaluated = [e for e in events if isinstance(e, Evaluated) and e.mode == "greedy"][-1]
    assert float(evaluated.returns[0].mean()) == 1.0
