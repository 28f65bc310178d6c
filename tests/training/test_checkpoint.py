"""Saving and loading checkpoints, without a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack

from pgzoo.errors import CheckpointError
from pgzoo.training import checkpoint
from pgzoo.types import Collector, TrainState


def state_with_memory() -> TrainState:
    """Return the state of one member with two environments, a memory of three numbers, and a buffer as in PPG."""
    return TrainState(
        params={"policy.weight": torch.ones(1, 4)},
        buffers={"ppg.memory": torch.full((1, 2, 3), 7.0)},
        optimizer={},
        collector=Collector(
            obs=np.zeros((1, 2, 4), np.float32),
            ended=np.zeros((1, 2), np.bool_),
            starts=np.zeros((1, 2), np.bool_),
            timestep=np.zeros((1, 2), np.int64),
            returns=np.zeros((1, 2)),
            memory=np.full((1, 2, 3), 5.0, np.float32),
        ),
        active=np.ones(1, np.bool_),
        env_steps=np.zeros(1, np.int64),
        episodes=np.zeros(1, np.int64),
        updates=np.zeros(1, np.int64),
        progress=np.zeros(1),
        recent=np.full((1, 100), np.nan),
    )


def test_a_checkpoint_with_the_old_names_for_memory_loads(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state_with_memory(), {})
    tensors = {  # named as in checkpoints from before the recurrent state was called "memory"
        name.replace("collector/memory", "collector/state").replace("ppg.memory", "ppg.state"): leaf
        for name, leaf in unpack((path / checkpoint.TENSORS).read_bytes()).items()
    }
    packed = pack(tensors)
    description = json.loads((path / checkpoint.DESCRIPTION).read_text())
    description |= {"order": [*tensors], "digest": hashlib.sha256(packed).hexdigest()}
    (path / checkpoint.TENSORS).write_bytes(packed)
    (path / checkpoint.DESCRIPTION).write_text(json.dumps(description))
    assert {"collector/state", "buffers/ppg.state"} < tensors.keys()

    loaded = checkpoint.load(path).state
    assert loaded.collector is not None and loaded.collector.memory is not None
    assert (loaded.collector.memory == 5.0).all()
    assert loaded.buffers["ppg.memory"].eq(7.0).all()


@pytest.mark.parametrize("change", [lambda order: order[1:], lambda order: [*order, "params/other"]])
def test_a_description_that_names_other_tensors_is_refused(
    tmp_path: Path, change: Callable[[list[str]], list[str]]
) -> None:
    path = checkpoint.save(tmp_path, state_with_memory(), {})
    description = json.loads((path / checkpoint.DESCRIPTION).read_text())
    (path / checkpoint.DESCRIPTION).write_text(json.dumps(description | {"order": change(description["order"])}))
    with pytest.raises(CheckpointError, match=r"is damaged: state\.json names other tensors"):
        checkpoint.load(path)


def test_a_saved_environment_state_may_contain_infinities(tmp_path: Path) -> None:
    saved = [{"state": [1.5, float("inf"), {"low": float("-inf")}], "flag": True}]
    path = checkpoint.save(tmp_path, state_with_memory()._replace(environments=(saved,)), {})
    assert checkpoint.load(path).state.environments == (saved,)


def test_packed_tensors_of_any_shape_and_dtype_can_be_read_by_safetensors() -> None:
    tensors = {
        "one number of a larger tensor": torch.randn(3, 9)[:1, :1],
        "nothing": torch.zeros(1, 0),
        "transposed": torch.randn(2, 3).T,
        "a scalar": torch.tensor(2, dtype=torch.float64),
        "flags": torch.tensor([[True, False, True]]),
        "pixels": torch.arange(5, dtype=torch.uint8),
    }
    for added in ({}, {"no numpy dtype": torch.ones(3, dtype=torch.bfloat16)}):
        packed = checkpoint._pack(tensors | added)
        found = unpack(b"".join(packed))
        assert found.keys() == tensors.keys() | added.keys()
        for name, leaf in (tensors | added).items():
            assert found[name].dtype == leaf.dtype and torch.equal(found[name], leaf), name
    large = torch.zeros(1000)
    *_, data = checkpoint._pack({"large": large})
    large += 1
    assert bytes(data) == large.numpy().tobytes()  # no copy was made
