"""Updates leave no tensors in reference cycles, because commands let Python's cycle collector run only rarely."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch

import pgzoo
from pgzoo.training.events import UpdateDone
from pgzoo.training.plan import Plan


@pytest.fixture(autouse=True)
def kept_garbage() -> Iterator[None]:
    """Let `gc.collect` store unreachable objects in `gc.garbage`, and disable automatic collection."""
    gc.collect()
    gc.freeze()  # objects that already exist needn't be searched after each update
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.unfreeze()
    gc.enable()
    gc.garbage.clear()


def tensors_found() -> int:
    gc.collect()
    count = sum(issubclass(type(found), torch.Tensor) for found in gc.garbage)
    gc.garbage.clear()
    return count


@pytest.mark.usefixtures("no_compiler")  # everything except the step itself is as in a compiled run
@pytest.mark.parametrize(
    ("algorithm", "compile"),
    [
        ("ars", "off"),
        *((name, compile) for name in ("ppo", "reinforce") for compile in ("off", "on")),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in itertools.product(("trpo", "vmpo"), ("off", "on"))),
    ],
)
def test_updates_leave_no_tensors_in_reference_cycles(algorithm: str, compile: str, plan: Callable[..., Plan]) -> None:
    found = []
    settings = {} if algorithm in ("reinforce", "ars") else {"rollout_steps": 16}
    made = plan(algorithm, seeds=2, num_envs=2, total_steps=300, compile=compile, eval_episodes=1, **settings)
    for event in pgzoo.train(made):
        if isinstance(event, UpdateDone):
            found.append(tensors_found())
    assert len(found) > 3
    assert found[2:] == [0] * (len(found) - 2), "only the first updates may import and trace"
