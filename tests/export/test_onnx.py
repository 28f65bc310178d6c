"""A policy as an ONNX graph: it acts like the policy for any number of observations, or it isn't written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from pgzoo.errors import UnfitError, UsageError
from pgzoo.export import onnx
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.export.formats import export
from pgzoo.extras import install_hint, present
from pgzoo.ops.entries import PackedSpace

Make = Callable[..., LoadedPolicy]

POINT = Box(-1.0, 1.0, (3,))
HALF = Box(np.array([-1.0, -np.inf], np.float32), np.array([np.inf, 2.5], np.float32))
needs_onnx = pytest.mark.skipif(not present("onnx"), reason=f"needs the extra onnx: {install_hint('onnx')}")

CASES: dict[str, tuple[gym.Space[Any], gym.Space[Any], dict[str, Any]]] = {
    "mlp": (POINT, Discrete(3, start=5), {}),
    "mlp, normalized, clipped": (Box(-9.0, 9.0, (2, 2), np.float64), HALF, {"normalize_obs": True}),
    "mlp, layer norm": (POINT, Discrete(3), {"policy": {"name": "mlp", "hidden": [5, 3], "layer_norm": True}}),
    "simba": (POINT, Discrete(3), {"policy": {"name": "simba", "width": 5}}),
    "tabular": (Discrete(4, start=-2), MultiDiscrete([2, 3], start=[1, -1]), {"policy": {"name": "tabular"}}),
    "flattened": (Dict({"a": Discrete(3), "b": Box(-1.0, 1.0, (2,))}), MultiBinary(3), {}),
    "rescaled": (POINT, Box(-2.0, 5.0, (2,)), {"policy": {"name": "linear", "rescale": True}}),
    "tanh": (POINT, Box(-2.0, 5.0, (2, 2)), {"policy": {"name": "linear", "distribution": "tanh", "state_std": True}}),
    "beta": (POINT, Box(-2.0, 5.0, (2,)), {"policy": {"name": "linear", "distribution": "beta"}}),
    "masked": (POINT, Discrete(4), {"masked": True}),
    "gru": (POINT, Discrete(3), {"policy": {"name": "gru", "memory": 7}}),
    "lstm, masked, normalized": (
        POINT,
        Discrete(3),
        {"policy": {"name": "lstm", "memory": 3}, "masked": True, "normalize_obs": True},
    ),
    # small: with weights as large as these, rounding errors grow from layer to layer
    "gtrxl": (POINT, Discrete(3), {"policy": {"name": "gtrxl", "width": 4, "memory": 3}}),
    "sde": (POINT, Box(-2.0, 5.0, (2,)), {"policy": {"name": "mlp", "distribution": "tanh", "sde": True}}),
    "module": (Box(-1.0, 1.0, (2, 2)), Discrete(3), {"policy": {"name": "net", "distribution": "auto"}}),
    "cnn": (
        Box(0, 255, (9, 9, 3), np.uint8),
        Discrete(3),
        {"policy": {"name": "cnn", "filters": (3, 2), "hidden": (5,)}},
    ),
    "cnn, packed, normalized": (
        Dict({"camera": Box(0, 255, (1, 16, 16), np.uint8), "speed": Box(-1.0, 1.0, (2,))}),
        Discrete(3),
        {"policy": {"name": "impala-cnn", "filters": (2, 2), "hidden": (5,)}, "normalize_obs": True},
    ),
    "uniform": (POINT, Box(-2.0, 5.0, (2,)), {"policy": {"name": "uniform"}}),
    "int32": (
        Discrete(4, start=-2, dtype=np.int32),
        Discrete(3, dtype=np.int32),
        {"policy": {"name": "tabular"}},
    ),
}


FAST = ("mlp, normalized, clipped", "flattened", "lstm, masked, normalized", "cnn")
"""Cases of fast tests: normalization, a mask, a memory, an image, several observations and a clipped action."""


@needs_onnx
@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_graph_acts_like_the_policy(make: Make, tmp_path: Path, case: str) -> None:
    import onnxruntime

    observation, action, options = CASES[case]
    policy = make(observation, action, **options)
    file = export(policy, tmp_path, "onnx") / "policy.onnx"
    session = onnxruntime.InferenceSession(file)
    packed = isinstance(policy.spec.observation_space, PackedSpace)
    observed = ["obs.camera", "obs.vector"] if packed else ["obs"]
    names = [
        *observed,
        *(["action_mask"] if policy.spec.masked else []),
        *(["state", "starts"] if policy.memory else []),
    ]
    assert [put.name for put in session.get_inputs()] == names
    outputs = [put.name for put in session.get_outputs()]
    assert outputs[0] == "action" and (outputs[-1] == "next_state") == bool(policy.memory)
    assert {put.shape[0] for put in session.get_inputs()} == {"N"}
    space = policy.spec.observation_space
    space.seed(3)
    for count in (1, 5, 16, 257):
        memory, kept = None, np.zeros((count, policy.memory), np.float32)
        for t in range(3):
            obs = np.stack([space.sample() for _ in range(count)])
            fed = {"obs": obs}
            if packed:
                fed = {f"obs.{k}": np.ascontiguousarray(v) for k, v in space.unpack(obs).items()}  # type: ignore[attr-defined]
            if policy.spec.masked:
                fed["action_mask"] = np.arange(count * action.n).reshape(count, -1) % 3 != 1  # type: ignore[attr-defined]
            if policy.memory:
                fed |= {"state": kept, "starts": np.full(count, t == 0)}
            found = session.run(None, fed)
            actions, memory = policy.step(obs, memory, action_mask=fed.get("action_mask"))
            assert found[0].dtype == actions.dtype and found[0].shape == actions.shape
            assert np.allclose(found[0], actions, rtol=1e-4, atol=1e-5)
            if policy.memory:
                kept = found[-1]
                assert memory is not None and np.allclose(kept, memory, rtol=1e-4, atol=1e-5)


@needs_onnx
def test_a_graph_that_chooses_other_actions_is_not_written(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx.mode
    monkeypatch.setattr(onnx, "mode", lambda dist, policy: right(dist, policy) + 1)
    with pytest.raises(UnfitError, match="onnxruntime chooses other actions than the policy; nothing was written"):
        export(make(POINT, Discrete(3)), tmp_path / "to", "onnx")
    assert not (tmp_path / "to").exists()


@needs_onnx
def test_outputs_that_differ_from_those_of_torch_are_an_error(make: Make, tmp_path: Path) -> None:
    policy, other = make(POINT, Discrete(3)), make(POINT, Discrete(3))
    data = (export(policy, tmp_path, "onnx") / "policy.onnx").read_bytes()
    other.params = {name: value + 0.01 for name, value in policy.params.items()}
    with pytest.raises(UnfitError, match="onnxruntime and torch disagree on logits"):
        onnx._check(other, onnx.Graph(other), data, np.random.default_rng(0))


def test_exporting_without_the_extra_names_the_install_command(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "present", lambda extra: False)
    with pytest.raises(UsageError, match=r'Install it: pip install "pgzoo\[onnx\]"'):
        export(make(POINT, Discrete(3)), tmp_path, "onnx")
