"""A policy as two files: a loaded policy acts like the saved one, and damaged or malicious files are refused."""

from __future__ import annotations

import ast
import json
import os
import pickle
import resource
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import pgzoo
from pgzoo.errors import ConfigError, UnknownName, UsageError
from pgzoo.export import spaces as as_json
from pgzoo.export.bundle import LoadedPolicy, load_policy
from pgzoo.play.evaluation import environment_for
from pgzoo.registry import PluginCatalog
from pgzoo.types import Inputs

Make = Callable[..., LoadedPolicy]
MLP = {"name": "mlp", "hidden": [5], "init": "default"}


OBSERVATIONS: list[gym.Space[Any]] = [
    Box(-1.0, 1.0, (3,)),
    Box(-np.inf, np.inf, (2, 2), np.float64),
    Box(np.array([-1.0, -np.inf], np.float32), np.array([np.inf, 2.5], np.float32)),
    Discrete(4),
    Discrete(4, start=-2),
    Discrete(4, start=-2, dtype=np.int32),
    Discrete(4, dtype=np.uint16),
    Box(0, 60_000, (3,), np.uint16),
    Tuple((Discrete(2, dtype=np.uint16), MultiDiscrete([2, 3], dtype=np.uint16))),
    Box(0, 1, (3,), np.bool_),
    Box(-1, 1, (3,), np.float16),
    MultiDiscrete([2, 3], dtype=np.int32),
    MultiBinary(3),
    Tuple((Discrete(2), Box(-1.0, 1.0, (2,)))),
    Dict({"a": Discrete(3), "b": Box(-1.0, 1.0, (1,))}),
    Dict(OrderedDict([("z", Box(-1.0, 1.0, (1,))), ("a", Box(-1.0, 1.0, (2,)))])),
]
ACTIONS: list[gym.Space[Any]] = [
    Discrete(3),
    Discrete(2, start=5),
    Discrete(2, start=5, dtype=np.int32),
    MultiDiscrete([2, 3], start=[1, -1], dtype=np.int16),
    MultiBinary(2),
    Box(-2.0, 2.0, (1,)),
    Box(-1.0, 1.0, (2, 3)),
]


@pytest.mark.parametrize("observation", OBSERVATIONS, ids=str)
def test_a_loaded_policy_acts_like_the_saved_one(
    make: Make, catalog: PluginCatalog, tmp_path: Path, observation: gym.Space[Any]
) -> None:
    for action in ACTIONS:
        saved = make(observation, action)
        loaded = load_policy(saved.save(tmp_path), catalog)
        assert loaded.spec == saved.spec
        observation.seed(0)
        for _ in range(5):
            obs = observation.sample()
            acts = [policy.act(obs, rng=np.random.default_rng(1)) for policy in (saved, loaded)]
            best = [policy.act(obs, deterministic=True) for policy in (saved, loaded)]
            assert np.array_equal(*acts) and np.array_equal(*best)
            assert action.contains(acts[0]) and action.contains(best[0])


KINDS: dict[str, tuple[gym.Space[Any], dict[str, Any], bool]] = {
    "linear": (Box(-1.0, 1.0, (3,)), {"name": "linear"}, False),
    "tabular": (Discrete(4, start=-2), {"name": "tabular"}, False),
    "gru": (Box(-1.0, 1.0, (3,)), {"name": "gru", "hidden": [5], "memory": 7}, False),
    "gtrxl": (Box(-1.0, 1.0, (3,)), {"name": "gtrxl", "width": 8, "memory": 3}, False),
    "lstm, normalized": (Box(-1.0, 1.0, (3,)), {"name": "lstm", "hidden": [], "memory": 3}, True),
    "mlp, normalized": (Box(-1.0, 1.0, (2, 2), np.float64), MLP, True),
    "net, normalized": (Box(-1.0, 1.0, (2, 2)), {"name": "net", "distribution": "auto"}, True),
    "uniform": (Box(-1.0, 1.0, (3,)), {"name": "uniform"}, False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_every_kind_of_policy_acts_the_same_after_saving_and_loading(
    make: Make, catalog: PluginCatalog, tmp_path: Path, kind: str, masked: bool
) -> None:
    observation, policy, normalize_obs = KINDS[kind]
    saved = make(observation, Discrete(3), policy, masked=masked, normalize_obs=normalize_obs)
    loaded = load_policy(saved.save(tmp_path), catalog)
    assert loaded.spec == saved.spec and loaded.spec.masked == masked
    assert not [name for name in loaded.params if name.startswith("critic.")]
    observation.seed(0)
    views = [observation.sample() for _ in range(6)]
    mask = np.array([1, 0, 1]) if masked else None

    def play(policy: LoadedPolicy) -> list[int]:
        rng = np.random.default_rng(1)
        policy.reset()
        return [int(policy.act(obs, rng=rng, action_mask=mask)) for obs in views * 4]

    first = play(saved)
    assert play(loaded) == first == play(saved)
    assert len(set(first)) > 1
    assert not masked or 1 not in first


@pytest.mark.parametrize("name", ["gru", "lstm", "gtrxl"])
def test_a_loaded_recurrent_policy_keeps_its_memory_until_it_is_reset(
    make: Make, catalog: PluginCatalog, tmp_path: Path, name: str
) -> None:
    saved = make(Box(-1.0, 1.0, (3,)), Box(-9.0, 9.0, (1,)), {"name": name, "memory": 7})
    policy = load_policy(saved.save(tmp_path), catalog)
    obs, others = np.ones(3, np.float32), np.zeros((4, 3), np.float32)

    def best(seen: Any) -> Any:
        return policy.act(seen, deterministic=True)

    first, second = best(obs), best(obs)
    assert first != second  # the observation is the same, but the memory isn't
    policy.reset()
    assert (best(obs), best(obs)) == (first, second)
    with pytest.raises(ValueError, match=r"got 4 observations, but the memory is for 1; call reset\(\)"):
        best(others)
    policy.reset()
    assert best(np.stack([obs, *others]))[0] == pytest.approx(first, rel=1e-5)  # a memory per observation of a stack
    assert best(np.stack([obs, *others]))[0] == pytest.approx(second, rel=1e-5)  # rounding depends on the size


@pytest.mark.parametrize("observation", [Box(-1.0, 1.0, (3,)), Box(-1.0, 1.0, (3, 3)), Discrete(4)], ids=str)
def test_one_observation_gives_one_action_and_a_stack_gives_a_stack(make: Make, observation: gym.Space[Any]) -> None:
    policy = make(observation, Box(-1.0, 1.0, (2,)))
    stack = np.array([observation.sample() for _ in range(7)])
    assert policy.act(stack[0]).shape == (2,)
    assert policy.act(stack).shape == (7, 2)
    alone = policy.act(stack[3], deterministic=True)
    assert np.allclose(policy.act(stack, deterministic=True)[3], alone, atol=1e-6)  # rounding depends on the size
    assert policy.act(stack[:1]).shape == (1, 2)
    assert policy.act(stack[:0]).shape == (0, 2)


@pytest.mark.parametrize("obs", [[1.0], [[1.0]], 1.0, np.zeros((2, 2, 3))])
def test_an_observation_of_the_wrong_shape_is_refused(make: Make, obs: Any) -> None:
    with pytest.raises(ValueError, match=r"expected an observation of shape \(3,\), or a stack of them; got"):
        make(Box(-1.0, 1.0, (3,)), Discrete(2)).act(obs)


@pytest.mark.parametrize(
    ("space", "obs"), [(Discrete(4), 1.5), (Discrete(4), [0.0, np.nan]), (Box(0, 255, (3,), np.uint8), [1, 256, -1])]
)
def test_observation_values_that_an_integer_dtype_cannot_hold_are_refused(
    make: Make, space: gym.Space[Any], obs: Any
) -> None:
    with pytest.raises(ValueError, match=r"expected an observation of u?int\d+ numbers; got (float|int)\d+ values"):
        make(space, Discrete(2)).act(obs)


@pytest.mark.parametrize("policy", [MLP, "tabular"], ids=["mlp", "tabular"])
@pytest.mark.parametrize("obs", [4, 8, 2, [5, 4]])
def test_a_category_that_does_not_exist_is_refused(make: Make, policy: Any, obs: Any) -> None:
    """Category 4 would have the index -1, which is that of the last one."""
    with pytest.raises(ValueError, match="expected observations that are whole numbers from 5 to 7; got"):
        make(Discrete(3, start=5), Discrete(2), policy).act(obs)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("eye", lambda image: image / 255, r"float64 of shape .* at \['eye'\]; expected uint8 of shape"),
        (
            "eye",
            lambda image: image.transpose(2, 0, 1),
            r"uint8 of shape \(3, .* at \['eye'\]; expected uint8 of shape",
        ),
        ("eye", lambda image: image.astype(int) + 56, r"at \['eye'\]; expected .* numbers from 0 to 255"),
        ("gear", lambda gear: gear - 1, r"4 at \['gear'\]; expected a whole number from 5 to 7"),
        ("speed", lambda speed: speed[:, None], r"at \['speed'\]; expected float32 of shape \(2,\)"),
        ("gear", None, "expected a dict with gear"),
    ],
)
@pytest.mark.parametrize("side", [4, 16], ids=["flattened", "packed"])
def test_an_entry_of_another_shape_or_type_is_refused(make: Make, side: int, key: str, value: Any, said: str) -> None:
    """Packing and flattening take numbers as they are: in another order, or cut to another type."""
    eye = Box(0, 255, (side, side, 3), np.uint8)
    space = Dict({"eye": eye, "gear": Discrete(3, start=5), "speed": Box(-1.0, 1.0, (2,))})
    policy = make(space, Discrete(2), {"name": "cnn", "filters": [1], "hidden": [2]})
    obs: dict[str, Any] = {"eye": np.full(eye.shape, 200, np.uint8), "gear": 5, "speed": np.zeros(2, np.float32)}
    assert policy.act(obs) in (0, 1)
    given = obs.pop(key)
    with pytest.raises(ValueError, match="got the observation .*" + said):
        policy.act(obs if value is None else obs | {key: value(given)})


PARTS = Tuple((Discrete(2), Discrete(4, start=-1), Discrete(3)))
CHOICES = Dict({"a": Discrete(4), "b": MultiDiscrete([2, 3]), "c": MultiBinary(2)})


@pytest.mark.parametrize(
    ("space", "usual", "others"),
    [
        (
            PARTS,
            (1, 2, 0),
            [np.array([1, 2, 0]), np.array([1.0, 2.0, 0.0]), [1.0, 2.0, 0.0], (np.array([1]), [2.0], np.array(0))],
        ),
        (
            CHOICES,
            {"a": 3, "b": np.array([1, 2]), "c": np.array([0, 1])},
            [{"a": 3.0, "b": [1.0, 2.0], "c": [0.0, 1.0]}, {"a": [3], "b": np.array([1, 2], np.uint8), "c": [0, 1]}],
        ),
    ],
    ids=["tuple", "dict"],
)
def test_categories_may_come_as_arrays_and_as_the_floats_of_json(
    make: Make, space: gym.Space[Any], usual: Any, others: list[Any]
) -> None:
    policy = make(space, Box(-9.0, 9.0, (2,)))
    expected = policy.act(usual, deterministic=True)
    for obs in others:
        assert np.array_equal(policy.act(obs, deterministic=True), expected), obs


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (PARTS, np.array([1, 2])),
        (PARTS, np.array(1)),
        (PARTS, (1, 2.5, 0)),
        (PARTS, (1, np.array([2, 2]), 0)),
        (PARTS, (1, np.nan, 0)),
        (PARTS, (1, 3.0, 0)),
        (PARTS, (1, "2", 0)),
        (CHOICES, {"a": 3, "b": [0.5, 2.0], "c": [0, 1]}),
        (CHOICES, {"a": 3, "b": [[1, 2], [3]], "c": [0, 1]}),
        (CHOICES, {"a": 3, "b": [1, 2], "c": [0.0, np.inf]}),
        (CHOICES, 3),
    ],
    ids=str,
)
def test_other_values_in_place_of_categories_are_refused(make: Make, space: gym.Space[Any], obs: Any) -> None:
    with pytest.raises(ValueError, match=r"got the observation .*; expected"):
        make(space, Discrete(2)).act(obs)


def test_actions_are_sampled_from_the_policy(make: Make) -> None:
    policy, obs = make(Box(-1.0, 1.0, (3,)), Discrete(3)), np.array([[0.3, -0.5, 0.9]] * 20_000, np.float32)
    share = np.bincount(policy.act(obs, rng=np.random.default_rng(0)), minlength=3) / len(obs)
    dist: Any = policy.policy.apply(policy.params, Inputs(torch.from_numpy(obs[None, None, :1]))).dist
    assert share == pytest.approx(torch.softmax(dist.logits, -1).flatten().tolist(), abs=0.015)


# spaces

floats = st.floats(allow_nan=False, width=32)
boxes = (
    st.tuples(floats, floats)
    .filter(lambda b: b[0] != np.inf and b[1] != -np.inf)
    .map(lambda bounds: Box(np.float32(min(bounds)), np.float32(max(bounds)), (2,)))
)
whole = st.sampled_from([np.uint8, np.int32, np.int64]).map(
    lambda dtype: Box(np.iinfo(dtype).min, np.iinfo(dtype).max, (2, 1), dtype)
)
simple = st.one_of(
    boxes,
    whole,
    st.just(Box(0, 1, (2,), np.bool_)),
    st.just(Box(-np.inf, 1, (2,), np.float16)),
    st.builds(Discrete, st.integers(1, 9), start=st.integers(-9, 9), dtype=st.sampled_from([np.int64, np.int8])),
    st.builds(
        MultiDiscrete,
        st.lists(st.integers(1, 5), min_size=1, max_size=3),
        dtype=st.sampled_from([np.int64, np.int32, np.uint8]),
    ),
    st.integers(1, 5).map(MultiBinary),
    st.just(MultiBinary([2, 3])),
)
spaces = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(Tuple),
        st.dictionaries(st.text(min_size=1, max_size=3), inner, min_size=1, max_size=3).map(
            lambda parts: Dict(list(parts.items()))
        ),
    ),
    max_leaves=5,
)


@given(space=spaces)
@settings(deadline=None, max_examples=150)
def test_a_space_is_unchanged_by_a_round_trip_through_json(space: gym.Space[Any]) -> None:
    back = as_json.from_json(json.loads(json.dumps(as_json.to_json(space), allow_nan=False)))
    assert back == space and back.dtype == space.dtype
    if isinstance(space, Dict):
        assert list(back) == list(space)  # flattening depends on the order of the keys


def test_a_space_that_cannot_be_saved_is_refused() -> None:
    with pytest.raises(ConfigError, match="can't be saved for the space Text"):
        as_json.to_json(gym.spaces.Text(4))


# damaged files


@pytest.fixture
def folder(make: Make, tmp_path: Path) -> Path:
    return make(Box(-1.0, 1.0, (3,)), Discrete(2)).save(tmp_path / "policy")


def rewritten(folder: Path, catalog: PluginCatalog, change: Mapping[str, Any]) -> str:
    """Change the description of a policy; return the error message when it is loaded."""
    file = folder / "policy.json"
    said = json.loads(file.read_text())
    for key, value in change.items():
        said[key] = said[key] | value if key == "action_space" else value
    file.write_text(json.dumps(said))
    return refusal(folder, catalog, UsageError)


def refusal(folder: Path, catalog: PluginCatalog, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        load_policy(folder, catalog)
    return str(caught.value)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_policy_can_be_loaded_by_the_path_of_either_file(folder: Path, catalog: PluginCatalog, name: str) -> None:
    assert load_policy(folder / name, catalog).component.name == "mlp"


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_missing_file_is_named_in_the_error(folder: Path, catalog: PluginCatalog, name: str) -> None:
    (folder / name).unlink()
    message = refusal(folder, catalog)
    assert message.startswith(f"No policy in {folder}: No such file") and name in message


def test_a_missing_folder_is_named_in_the_error(catalog: PluginCatalog) -> None:
    assert refusal(Path("nope"), catalog).startswith("No policy in nope: No such file or directory")


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe nonsense", b"[1, 2]", b"{}", b"null"])
def test_a_damaged_file_is_reported(folder: Path, catalog: PluginCatalog, name: str, damage: bytes) -> None:
    (folder / name).write_bytes(damage)
    assert refusal(folder, catalog).startswith(f"The policy in {folder} is damaged: ")


def test_a_truncated_file_is_reported_as_damaged(folder: Path, catalog: PluginCatalog) -> None:
    file = folder / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert "is damaged" in refusal(folder, catalog)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 99}, "Upgrade: pip install -U pgzoo"),
        ({"schema": "one"}, "is damaged"),
        ({"action_space": {"type": "Discrete", "n": 0, "start": 0}}, "is damaged"),
        (
            {"observation_space": {"type": "Box", "shape": [1], "dtype": "float32", "low": [0], "high": [1e308]}},
            "is damaged: FloatingPointError",
        ),
        ({"action_space": {"type": "Sphere"}}, "is damaged: ValueError: unknown space 'Sphere'"),
        ({"action_space": 3}, "is damaged"),
        ({"action_space": {"type": "Discrete", "n": 5, "start": 0}}, "expected tensors"),
        ({"policy": {"name": "mlp", "hiden": [5]}}, 'Did you mean "hidden"?'),
        ({"policy": {"name": "mlp", "hidden": [6]}}, "expected tensors"),
    ],
    ids=str,
)
def test_an_invalid_or_mismatched_description_is_refused(
    folder: Path, catalog: PluginCatalog, change: dict[str, Any], said: str
) -> None:
    file = folder / "policy.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert said in refusal(folder, catalog)


# malicious files


class Bomb:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_pickle_in_place_of_a_policy_file_is_not_executed(
    folder: Path, catalog: PluginCatalog, tmp_path: Path, name: str
) -> None:
    bomb, mark = pickle.dumps(Bomb(tmp_path / "executed")), tmp_path / "executed"
    (folder / name).write_bytes(bomb)
    assert "is damaged" in refusal(folder, catalog) and not mark.exists()
    pickle.loads(bomb)  # shows that loading the pickle would have executed it
    assert mark.exists()


def test_a_torch_file_in_place_of_the_tensors_is_not_executed(
    folder: Path, catalog: PluginCatalog, tmp_path: Path
) -> None:
    torch.save({"weight.0": torch.zeros(1), "bomb": Bomb(tmp_path / "executed")}, folder / "policy.safetensors")
    assert "is damaged" in refusal(folder, catalog) and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"name": "../../../../etc/passwd"}},
        {"policy": {"name": "os:system"}},
        {"policy": "/etc/passwd"},
        {"policy": {"name": "mlp", "../settings": [5]}},
    ],
    ids=str,
)
def test_names_of_policies_and_settings_are_never_paths_or_modules(
    folder: Path, catalog: PluginCatalog, change: dict[str, Any]
) -> None:
    message = rewritten(folder, catalog, change)
    assert message.startswith("No policy") or "has no setting of that name" in message


def test_the_environment_of_a_policy_is_not_imported(
    folder: Path, catalog: PluginCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trojan.py").write_text(f"import os; os.mkdir({str(tmp_path / 'executed')!r})")
    monkeypatch.syspath_prepend(tmp_path)
    file, env = folder / "policy.json", {"id": "trojan:Horse-v0", "kwargs": {}, "max_episode_steps": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"env": env}))
    loaded = load_policy(folder, catalog)
    assert loaded.env is not None and loaded.env.id == "trojan:Horse-v0"
    with pytest.raises(UsageError, match=r'in module "trojan".* Add: --import trojan'):
        environment_for(loaded)
    assert not (tmp_path / "executed").exists()


HUGE = 10**9
TOO_LARGE: list[dict[str, Any]] = [
    {"policy": {"name": "mlp", "hidden": [HUGE]}},
    {"policy": {"name": "mlp", "hidden": [30_000, 30_000]}},
    {"policy": {"name": "gru", "memory": HUGE}},
    {"policy": {"name": "lstm", "memory": 30_000}},
    {"policy": {"name": "mlp", "hidden": [5], "init": "orthogonal"}, "action_space": {"n": HUGE}},
    {"action_space": {"type": "Discrete", "n": 2**24, "start": 0}},
    {"observation_space": {"type": "Discrete", "n": HUGE, "start": 0}},
    {"observation_space": {"type": "Discrete", "n": 2**24, "start": 0}},
    {"observation_space": {"type": "Box", "shape": [HUGE], "dtype": "float32", "low": [0], "high": [1]}},
    {"observation_space": {"type": "Box", "shape": [2**12, 2**12, 2], "dtype": "uint8", "low": [0], "high": [1]}},
    {"observation_space": {"type": "Box", "shape": [-1], "dtype": "float32", "low": [0], "high": [1]}},
    {"observation_space": {"type": "Box", "shape": [1], "dtype": "V2000000000", "low": [0], "high": [1]}},
    {"observation_space": {"type": "MultiBinary", "shape": [HUGE, HUGE]}},
    {"observation_space": {"type": "MultiDiscrete", "nvec": [HUGE, HUGE], "start": [0, 0]}},
    {"observation_space": {"type": "Tuple", "spaces": [{"type": "MultiBinary", "shape": [2**23]}] * 9}},
    {
        "policy": {"name": "tabular"},
        "observation_space": {"type": "Discrete", "n": 2**24, "start": 0},
        "action_space": {"type": "Discrete", "n": 2**24, "start": 0},
    },
]


@pytest.mark.parametrize("change", TOO_LARGE, ids=lambda change: str(change)[:60])
def test_huge_declared_sizes_are_refused_within_bounded_memory_and_time(
    folder: Path, catalog: PluginCatalog, change: dict[str, Any]
) -> None:
    before, begin = peak_memory(reset=True), time.process_time()
    assert "is damaged" in rewritten(folder, catalog, change)
    assert peak_memory() - before < 400e6 and time.process_time() - begin < 20


def peak_memory(reset: bool = False) -> int:
    """Return the peak of this process's memory in bytes; on Linux, `reset` first lowers it to the current size."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if reset:
        with suppress(OSError):  # not every container lets a process do this; then the peak is that of all tests
            Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_deeply_nested_space_is_refused(folder: Path, catalog: PluginCatalog) -> None:
    file, deep = folder / "policy.json", 100_000
    said = json.loads(file.read_text())
    nested = '{"type": "Tuple", "spaces": [' * deep + "]}" * deep
    file.write_text(json.dumps(said | {"observation_space": "?"}).replace('"?"', nested))
    assert "is damaged: RecursionError" in refusal(folder, catalog)


def test_an_oversized_description_file_is_refused(folder: Path, catalog: PluginCatalog) -> None:
    with (folder / "policy.json").open("wb") as file:
        file.truncate(10 * 2**40)
    assert "is longer than" in refusal(folder, catalog)


def header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the header of the tensor file."""
    file = folder / "policy.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    declared = json.loads(data[8 : 8 + size])
    change(declared)
    text = json.dumps(declared).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["weight.0"].update(shape=[1, 2**40, 2**20]),
        lambda tensors: tensors["weight.0"].update(shape=[2**63, 2**63]),
        lambda tensors: tensors["weight.0"].update(data_offsets=[0, 2**60]),
        lambda tensors: tensors["weight.0"].update(shape=[1, 5, 3]),
        lambda tensors: tensors["weight.0"].update(dtype="I32"),
        lambda tensors: tensors["weight.0"].update(dtype="X7"),
        lambda tensors: tensors.update({"../../weight.9": tensors.pop("weight.0")}),
        lambda tensors: tensors.pop("weight.0"),
    ],
)
def test_tensors_that_do_not_match_the_policy_are_refused(folder: Path, catalog: PluginCatalog, change: Any) -> None:
    header(folder, change)
    assert "is damaged" in refusal(folder, catalog)


def test_a_header_longer_than_its_file_is_refused(folder: Path, catalog: PluginCatalog) -> None:
    file = folder / "policy.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + file.read_bytes()[8:])
    assert "is damaged" in refusal(folder, catalog)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.bool])
def test_tensors_of_the_wrong_dtype_are_refused(folder: Path, catalog: PluginCatalog, dtype: torch.dtype) -> None:
    tensors = {name: value.to(dtype) for name, value in load_policy(folder, catalog).params.items()}
    save_file(tensors, folder / "policy.safetensors")
    assert f"found bias.0 [5] {str(dtype).removeprefix('torch.')}" in refusal(folder, catalog)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_tensors_with_nan_or_infinity_are_refused(folder: Path, catalog: PluginCatalog, bad: float) -> None:
    tensors = dict(load_policy(folder, catalog).params)
    tensors["weight.1"] = tensors["weight.1"].clone()
    tensors["weight.1"][0, 2, 1] = bad
    save_file(tensors, folder / "policy.safetensors")
    assert "the tensor weight.1 has numbers that aren't finite" in refusal(folder, catalog)


def test_a_policy_of_a_plugin_that_is_not_installed_is_refused(folder: Path, catalog: PluginCatalog) -> None:
    file = folder / "policy.json"
    file.write_text(file.read_text().replace('"mlp"', '"transformer"'))
    assert 'No policy "transformer"' in refusal(folder, catalog, UnknownName)


def test_no_module_uses_a_serializer_that_can_execute_code() -> None:
    """No module imports such a serializer, or uses torch.load or torch.save."""
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for file in Path(str(pgzoo.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names}
                names |= {(getattr(node, "module", None) or "").partition(".")[0]}
                assert not names & unsafe, file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in ("load", "save"), file


@pytest.mark.parametrize("mask", [[0.0, -np.inf, 0.0], [0, 2], [1, 1], ["a", "b", "c"]], ids=repr)
def test_an_invalid_action_mask_is_refused(make: Any, mask: Any) -> None:
    policy = make(gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(3), masked=True)
    obs = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="expected an action mask of bool or 0/1 integers with 3 entries"):
        policy.act(obs, action_mask=mask)
    assert policy.act(obs, action_mask=[0, 1, 0]) == 1


def test_an_action_mask_that_allows_no_action_is_refused(make: Any) -> None:
    box, obs = gym.spaces.Box(-1.0, 1.0, (2,)), np.zeros((2, 2), np.float32)
    one, two = make(box, gym.spaces.Discrete(3), masked=True), make(box, gym.spaces.MultiDiscrete([2, 3]), masked=True)
    for policy, masks in ((one, [[0, 1, 0], [0, 0, 0]]), (two, [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])):
        with pytest.raises(ValueError, match="the action mask allows no action"):
            policy.act(obs, action_mask=masks)
    bits = make(box, gym.spaces.MultiBinary(2), masked=True)
    assert bits.act(obs[0], action_mask=[0, 0]).tolist() == [0, 0]


def test_a_step_refuses_the_observations_and_masks_that_act_refuses(make: Make) -> None:
    """A served policy calls `step`."""
    policy, obs = make(Box(-1.0, 1.0, (2,)), Discrete(3), masked=True), np.zeros((2, 2), np.float32)
    assert policy.step(obs, action_mask=[[0, 1, 0], [0, 0, 1]])[0].tolist() == [1, 2]
    with pytest.raises(ValueError, match="the action mask allows no action"):
        policy.step(obs, action_mask=np.zeros((2, 3), np.bool_))
    for mask in ([0, 1, 0], np.ones((3, 2), np.bool_), np.full((2, 3), -np.inf)):
        with pytest.raises(ValueError, match="expected an action mask of bool or 0/1 integers with 3 entries"):
            policy.step(obs, action_mask=mask)
    for wrong in (obs[0], obs[:, :1], obs[None]):
        with pytest.raises(ValueError, match=r"expected a stack of observations of shape \(2,\); got"):
            policy.step(wrong)
    with pytest.raises(ValueError, match="expected an observation of uint16 numbers; got"):
        make(Box(0, 60_000, (2,), np.uint16), Discrete(3)).step(obs - 1)


@pytest.mark.parametrize("where", ["", pytest.param("env", marks=pytest.mark.slow)])
def test_a_million_extra_keys_are_refused(folder: Path, catalog: PluginCatalog, where: str) -> None:
    said = json.loads((folder / "policy.json").read_text())
    said.setdefault("env", {"id": "CartPole-v1", "kwargs": {}, "max_episode_steps": None})
    (said["env"]["kwargs"] if where else said).update({f"x{k}": 0 for k in range(1_000_000)})
    (folder / "policy.json").write_text(json.dumps(said))
    with pytest.raises(ConfigError, match=r"is damaged: .* has 1,000,\d\d\d key"):
        load_policy(folder, catalog)
