"""The gated transformer: its attention compared with a plain loop, how far it sees, and bit-identical gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from torch.nn import functional as F

from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.policies.gtrxl import CHUNK, GTrXL, GTrXLConfig
from pgzoo.types import Inputs, Output, Params

SETTINGS: list[dict[str, Any]] = [
    {},
    {"width": 6, "heads": 3, "memory": 3, "blocks": 2},
    {"width": 5, "heads": 1, "memory": 20},
    {"width": 4, "heads": 4, "memory": 1},
]


def make(**settings: Any) -> GTrXL:
    return GTrXL(GTrXLConfig(**settings), make_spec(Box(-1, 1, (3,)), Discrete(3)), frozenset({"value"}))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def members(policy: GTrXL, count: int) -> Params:
    """Return perturbed initial parameters, so that gates and positions matter."""
    each = [policy.init(np.random.default_rng(seed)) for seed in range(count)]
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    return {name: value + 0.2 * noise(*value.shape, seed=k) for k, (name, value) in enumerate(stacked.items())}


def fresh(policy: GTrXL, members: int, steps: int, envs: int = 1) -> Inputs:
    starts = torch.zeros(members, steps, envs, dtype=torch.bool)
    starts[:, 0] = True
    return Inputs(noise(members, steps, envs, 3), None, torch.zeros(members, envs, policy.memory_size), starts)


def reference(policy: GTrXL, params: Params, obs: Tensor) -> Tensor:
    """Return the logits of one member in one episode, `obs [T, 3]`, computed step by step as in the paper."""
    c = policy.config

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ params[f"{name}.weight"][0] + params[f"{name}.bias"][0]

    def gate(name: str, x: Tensor, y: Tensor) -> Tensor:
        new, old = layer(f"{name}.new", y).split(c.width), layer(f"{name}.old", x).split(c.width)
        r, u = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
        return (1 - u) * x + u * torch.tanh(new[2] + layer(f"{name}.reset", r * x))

    memory: list[list[Tensor]] = [[] for _ in range(c.blocks)]
    logits = []
    for seen in obs:
        x = torch.tanh(layer("embed", seen))
        for k in range(c.blocks):
            name, h = f"block.{k}.", F.layer_norm(x, (c.width,))
            memory[k] = [*memory[k], h][-c.memory - 1 :]
            parts = []
            for i in range(c.heads):
                part = slice(i * c.width // c.heads, (i + 1) * c.width // c.heads)
                q, position = layer(f"{name}query", h)[part], layer(f"{name}position", h).chunk(c.heads)[i]
                scores = [
                    (q @ layer(f"{name}key", entry)[part] + position[-1 - age]) / (c.width / c.heads) ** 0.5
                    for age, entry in enumerate(reversed(memory[k]))
                ]
                values = [layer(f"{name}value", entry)[part] for entry in reversed(memory[k])]
                parts.append((torch.softmax(torch.stack(scores), 0)[:, None] * torch.stack(values)).sum(0))
            y = gate(f"{name}attention_gate", x, torch.relu(layer(f"{name}project", torch.cat(parts))))
            hidden = torch.relu(layer(f"{name}hidden", F.layer_norm(y, (c.width,))))
            x = gate(f"{name}feedforward_gate", y, torch.relu(layer(f"{name}out", hidden)))
        logits.append(layer("head", x))
    return torch.stack(logits)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_logits_match_a_step_by_step_implementation_of_the_paper(settings: dict[str, Any]) -> None:
    policy = make(**settings)
    params, inputs = members(policy, 1), fresh(policy, 1, 2 * CHUNK + 3)
    dist: Any = policy.apply(params, inputs).dist
    torch.testing.assert_close(
        dist.logits[0, :, 0], reference(policy, params, inputs.obs[0, :, 0]), rtol=1e-4, atol=1e-5
    )


def test_a_larger_gate_bias_starts_a_block_closer_to_the_identity() -> None:
    def moved(gate_bias: float) -> float:
        policy = make(gate_bias=gate_bias)
        params = {name: value[None] for name, value in policy.init(np.random.default_rng(0)).items()}
        inputs = fresh(policy, 1, 8)
        embedded = torch.tanh(inputs.obs[0, :, 0] @ params["embed.weight"][0])
        logits: Any = policy.apply(params, inputs).dist
        return float((logits.logits[0, :, 0] - embedded @ params["head.weight"][0]).norm())

    assert moved(9.0) < 0.01 * moved(2.0) and moved(2.0) < 0.5 * moved(0.0)


@pytest.mark.parametrize(("memory", "blocks"), [(3, 1), (20, 1), (3, 2)])
def test_attention_sees_memory_times_blocks_steps_of_the_same_episode(memory: int, blocks: int) -> None:
    policy = make(width=8, memory=memory, blocks=blocks)
    params, inputs, last = members(policy, 1), fresh(policy, 1, 60), 50
    obs = inputs.obs.clone().requires_grad_()

    def seen(inputs: Inputs) -> list[int]:
        dist: Any = policy.apply(params, inputs).dist
        (slope,) = torch.autograd.grad(dist.logits[0, last, 0, 0], obs)
        return slope[0, :, 0].abs().sum(-1).nonzero().flatten().tolist()

    assert seen(inputs._replace(obs=obs)) == list(range(last - memory * blocks, last + 1))
    assert inputs.starts is not None
    inputs.starts[:, last - 2] = True
    assert seen(inputs._replace(obs=obs)) == [last - 2, last - 1, last]


def test_carrying_memory_between_parts_of_a_rollout_matches_the_whole() -> None:
    policy = make(width=8, memory=5, blocks=2)
    params, inputs = members(policy, 2), fresh(policy, 2, 40, 3)
    assert inputs.starts is not None
    inputs.starts[:, 17, 1] = True
    whole: Any = policy.apply(params, inputs)
    memory, parts = inputs.memory, []
    for steps in (slice(0, 7), slice(7, 19), slice(19, 40)):
        assert inputs.starts is not None
        part: Output = policy.apply(params, Inputs(inputs.obs[:, steps], None, memory, inputs.starts[:, steps]))
        memory, dist = part.memory, part.dist
        parts.append(dist.entropy())
    torch.testing.assert_close(torch.cat(parts, 1), whole.dist.entropy(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(memory, whole.memory, rtol=1e-5, atol=1e-6)
    assert whole.memory[..., -1].tolist() == [[5] * 3] * 2


def slopes(policy: GTrXL, params: Params, inputs: Inputs, pull: Tensor) -> list[Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    output = policy.apply(leaves, inputs)
    return list(torch.autograd.grad(((output.dist.entropy() + output.value) * pull).sum(), list(leaves.values())))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_other_members_and_padding_leave_gradients_bit_identical(settings: dict[str, Any]) -> None:
    policy = make(**settings)
    params, steps, envs = members(policy, 10), 45, 16
    memory = noise(10, envs, policy.memory_size, seed=1)
    memory[..., -1] = memory[..., -1].mul(3).round().clamp(0, policy.config.memory)
    inputs = Inputs(noise(10, steps, envs, 3), None, memory, noise(10, steps, envs, seed=2) > 1.3)
    pull, one = noise(10, steps, envs, seed=3), slice(7, 8)
    pull[7, 6:] = 0
    among = slopes(policy, params, inputs, pull)
    assert inputs.memory is not None and inputs.starts is not None
    part = Inputs(inputs.obs[one, :6].clone(), None, inputs.memory[one].clone(), inputs.starts[one, :6].clone())
    alone = slopes(policy, {name: value[one].clone() for name, value in params.items()}, part, pull[one, :6].clone())
    assert [name for name, a, b in zip(params, among, alone, strict=True) if not torch.equal(a[7], b[0])] == []


def test_a_width_that_is_not_a_multiple_of_the_heads_is_refused() -> None:
    with pytest.raises(UnfitError, match='policy "gtrxl": the width 64 is not a multiple of the number of heads, 5'):
        make(heads=5)
