"""A policy from a user's module: the documented example, refused modules, and bit-identical gradients."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

import pgzoo
from pgzoo.envs.spec import make_spec
from pgzoo.errors import PluginError, UnfitError
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.training.events import RunEnded
from pgzoo.training.loop import train
from pgzoo.training.plan import policy_tensors
from pgzoo.types import Inputs

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
SPEC = make_spec(Box(-1.0, 1.0, (3,)), Discrete(4))


def plain(inputs: Any, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs))


def make(build: Any, spec: Any = SPEC, needs: Any = (), **options: Any) -> Any:
    return pgzoo.module_policy(build, **options)(None, spec, frozenset(needs))


def stacked(policy: Any, count: int) -> dict[str, Tensor]:
    each = [policy.init(np.random.default_rng(seed)) for seed in range(count)]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def test_the_documented_example_runs(tmp_path: Path) -> None:
    example = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "module_policy" in b)
    (tmp_path / "pgzoo_plugin.py").write_text(example, encoding="utf-8")
    (command,) = re.findall(r"^pgzoo (run a2c .*--policy my-net.*)$", PAGE, re.MULTILINE)
    options = "--seeds 2 --total-steps 300 --eval-episodes 2 --json --tracking-uri none".split()
    done = subprocess.run(
        [sys.executable, "-m", "pgzoo", *command.split(), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"finished"' in done.stdout


@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_each_member_matches_a_separate_module(lift: Any) -> None:
    policy = make(plain, lift=lift, needs=("value",))
    params, obs = stacked(policy, 3), torch.randn(3, 1, 16, 3, generator=torch.Generator().manual_seed(0))
    output = policy.apply(params, Inputs(obs))
    for member in range(3):
        for prefix, found in (("net.", output.dist.logits), ("critic.net.", output.value[..., None])):
            module = plain(3, found.shape[-1])
            module.load_state_dict(
                {k.removeprefix(prefix): v[member] for k, v in params.items() if k.startswith(prefix)}
            )
            torch.testing.assert_close(found[member], module(obs[member]))


def test_parameters_depend_on_the_seed_and_the_torch_generator_is_unchanged() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    policy = make(plain)
    first, again, other = (policy.init(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])


def test_padding_and_other_members_leave_gradients_bit_identical() -> None:
    policy = make(plain)
    params, obs = stacked(policy, 4), torch.randn(4, 1, 3 * ROW_BLOCK, 3, generator=torch.Generator().manual_seed(0))

    def slopes(rows: slice, count: int) -> dict[str, Tensor]:
        leaves = {name: value[rows].clone().requires_grad_() for name, value in params.items()}
        seen = obs[rows, :, :count]
        actions = torch.ones(seen.shape[:3], dtype=torch.int64)
        log_prob = policy.apply(leaves, Inputs(seen)).dist.log_prob(actions)
        found = torch.autograd.grad(log_prob[:, :, : ROW_BLOCK - 7].sum(), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    among, alone = slopes(slice(0, 4), 3 * ROW_BLOCK), slopes(slice(2, 3), ROW_BLOCK)
    assert all(torch.equal(among[name][2], alone[name][0]) for name in params)


@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_a_module_policy_can_be_differentiated_twice(lift: Any) -> None:
    policy = make(plain, lift=lift)
    params = {name: value.requires_grad_() for name, value in stacked(policy, 2).items()}
    output = policy.apply(params, Inputs(torch.ones(2, 1, 4, 3))).dist.entropy().sum()
    first = torch.autograd.grad(output, list(params.values()), create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), list(params.values()))
    assert all(s.any() for s in second[:2])


class Drawing(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out + torch.randn_like(out)


class AlgorithmState(Drawing):
    """A module with a buffer and a frozen parameter, neither of which is ever written."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("scale", torch.rand(inputs))
        self.layer.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x * self.scale)
        return found


def between(layer: nn.Module) -> Any:
    return lambda inputs, outputs: nn.Sequential(nn.Linear(inputs, 6), layer, nn.Linear(6, outputs))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (between(nn.BatchNorm1d(6)), r"BatchNorm1d \(1\) writes its buffer \w+ .*LayerNorm"),
        (between(nn.Dropout(0.5)), r"Dropout \(1\) draws random numbers"),
        (Drawing, r"Drawing \(the module itself\) draws random numbers"),
        (lambda inputs, outputs: plain(inputs, outputs).double(), r"0\.weight is torch\.float64"),
        (
            lambda inputs, outputs: nn.Linear(inputs, outputs + 1),
            r"expected \d outputs; 2 rows gave shape \[2, \d\]",
        ),
    ],
)
def test_impure_or_unsuitable_modules_are_refused_with_a_reason(build: Any, said: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(UnfitError, match=said):
        make(build)
    assert torch.equal(before, torch.get_rng_state())


class Pair(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x), None


def forgets_return(inputs: int, outputs: int) -> Any:
    nn.Linear(inputs, outputs)


class Silent(Pair):
    def forward(self, x: Tensor) -> Any:
        self.layer(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (forgets_return, r"^forgets_return returned None; it must return a torch\.nn\.Module\.$"),
        (Pair, r"^Pair returned a tuple of 2 from forward; it must return one tensor \[rows, 4\]\.$"),
        (Silent, r"^Silent returned None from forward; it must return one tensor \[rows, 4\]\.$"),
    ],
)
def test_a_build_function_or_module_that_returns_something_else_is_reported(build: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        make(build)


def test_a_second_value_head_and_an_unknown_lift_are_refused() -> None:
    with pytest.raises(UnfitError, match="has no second value head, which the algorithm needs"):
        make(plain, needs=("aux_value",))
    with pytest.raises(ValueError, match='"loop" or "vmap"'):
        pgzoo.module_policy(plain, lift="pool")  # type: ignore[arg-type]


def test_module_buffers_and_frozen_parameters_are_constant_buffers_of_the_train_state(plan: Callable[..., Any]) -> None:
    policy = make(AlgorithmState)
    assert set(policy.init(np.random.default_rng(0))) == {"net.layer.weight"}
    kept = policy.buffers()
    assert set(kept) == {"net.layer.bias", "net.scale"}
    assert all(torch.equal(value, make(AlgorithmState).buffers()[name]) for name, value in kept.items())
    weight = policy.init(np.random.default_rng(0))["net.layer.weight"]
    obs = torch.ones(1, 1, 1, 3)
    logits = policy.apply({"net.layer.weight": weight[None]} | {k: v[None] for k, v in kept.items()}, Inputs(obs)).dist
    torch.testing.assert_close(logits.logits[0, 0, 0], weight @ kept["net.scale"] + kept["net.layer.bias"])
    given = plan("windows", total_steps=500, eval_episodes=1)
    policy = make(AlgorithmState, given.spec)
    ended = list(train(replace(given, policy=policy)))[-1]
    assert isinstance(ended, RunEnded) and ended.state.updates[0] > 1
    buffers = {name: value[0].tolist() for name, value in policy_tensors(ended.state.buffers).items()}
    assert buffers == {name: value.tolist() for name, value in policy.buffers().items()}


@pytest.mark.parametrize(
    ("space", "inputs"),
    [
        (Box(-1, 1, (3,)), 3),
        (Box(-1, 1, ()), 1),
        (Discrete(4), 4),
        (Box(-1, 1, (2, 3)), (2, 3)),
        (Box(0, 255, (8, 8, 3), np.uint8), (8, 8, 3)),
    ],
)
def test_build_receives_the_size_or_shape_of_the_observations(space: gym.Space[Any], inputs: Any) -> None:
    asked = []

    def build(inputs: Any, outputs: int) -> nn.Module:
        asked.append((inputs, outputs))
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(inputs)), outputs))

    policy = make(build, make_spec(space, Discrete(2)), needs=("value",))
    assert set(asked) == {(inputs, 2), (inputs, 1)}
    obs = torch.from_numpy(np.asarray(space.sample()))[None, None, None]
    assert policy.apply(stacked(policy, 1), Inputs(obs)).value.shape == (1, 1, 1)


@pytest.mark.learning
def test_a_module_learns(play: Callable[..., Any]) -> None:
    events = play("a2c", "probe/Bandit-v0", policy="net", total_steps=3000, learning_rate=0.01, eval_episodes=5)
    assert events[-2].returns[0].tolist() == [1.0] * 5
