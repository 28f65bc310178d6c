"""Stacked networks: members are independent, numpy agrees with torch, and layers are initialized correctly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pgzoo.ops.nets import (
    ACTIVATIONS,
    ROW_BLOCK,
    init_mlp,
    init_norms,
    layer_norm,
    layer_norm_numpy,
    mlp,
    mlp_numpy,
    numpy_layers,
    numpy_norms,
    trunk,
)
from pgzoo.ops.optim import flatten, unflatten
from pgzoo.types import Params

SIZES = [
    (4, 64, 2),
    (3, 64, 64, 1),
    (16, 5, 4),
    (6, 3),
    (2, 1, 1),
    (3, 5, 7, 2),
    (1, 6, 3),
    (7, 9, 9, 5),
    (10, 33, 6),
    (1, 64, 3),
    (3, 1, 2),
    (1, 1),
]


def stacked(members: int, sizes: tuple[int, ...], **kwargs: Any) -> Params:
    given = {"activation": "tanh", "init": "default", "last_gain": 1.0} | kwargs
    each = [init_mlp(np.random.default_rng(seed), sizes, **given) for seed in range(members)]
    params = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    return unflatten(flatten(params.values()), params)  # views of one vector, as after an optimizer step


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_stacked_network_matches_the_layers_of_torch(activation: Any) -> None:
    params, x = stacked(2, (4, 8, 8, 3), activation=activation), noise(2, 5, 4)
    act = ACTIVATIONS[activation][0]
    for row in range(2):
        hidden = x[row]
        for i in range(3):
            hidden = torch.nn.functional.linear(hidden, params[f"weight.{i}"][row].T, params[f"bias.{i}"][row])
            hidden = act(hidden) if i < 2 else hidden
        torch.testing.assert_close(mlp(params, x, activation)[row], hidden)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_numpy_agrees_with_torch(activation: Any, scale: float) -> None:
    params, x = stacked(3, (4, 16, 2), activation=activation), scale * noise(3, 7, 4)
    ours = mlp_numpy(numpy_layers({name: value.numpy() for name, value in params.items()}), x.numpy(), activation)
    torch.testing.assert_close(torch.from_numpy(ours), mlp(params, x, activation), rtol=1e-4, atol=1e-4 * scale**0.5)


@pytest.mark.parametrize("name", ["tanh", "relu", "leaky_relu", "elu", "silu", "gelu", "softplus"])
def test_an_activation_matches_the_module_of_torch(name: str) -> None:
    modules = {
        "tanh": torch.nn.Tanh(),
        "relu": torch.nn.ReLU(),
        "leaky_relu": torch.nn.LeakyReLU(),
        "elu": torch.nn.ELU(),
        "silu": torch.nn.SiLU(),
        "gelu": torch.nn.GELU("tanh"),
        "softplus": torch.nn.Softplus(),
    }
    x = torch.linspace(-90, 90, 181)
    torch.testing.assert_close(ACTIVATIONS[name][0](x), modules[name](x))  # type: ignore[index]


def gradients(params: Params, x: torch.Tensor, pull: torch.Tensor) -> Params:
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    found = torch.autograd.grad((mlp(leaves, x, "tanh") * pull).sum(), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("members", [2, 10, 17])
@pytest.mark.parametrize("rows", [32, 2 * ROW_BLOCK])  # of a window of steps, and of whole episodes
def test_a_members_gradient_is_bit_identical_alone_and_among_others(
    sizes: tuple[int, ...], members: int, rows: int
) -> None:
    params = stacked(members, sizes)
    x, pull = noise(members, rows, sizes[0]), noise(members, rows, sizes[-1], seed=1)
    together = gradients(params, x, pull)
    for row in (0, members - 1):
        one = slice(row, row + 1)
        alone = gradients({name: value[one] for name, value in params.items()}, x[one].clone(), pull[one].clone())
        assert all(torch.equal(alone[name][0], together[name][row]) for name in params)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("filled", "blocks"), [(1, 2), (1, 5), (1, 19), (1, 40), (5, 7), (6, 8), (7, 10), (13, 30)])
def test_blocks_of_padding_leave_gradients_bit_identical(sizes: tuple[int, ...], filled: int, blocks: int) -> None:
    params, rows, padded = stacked(2, sizes), filled * ROW_BLOCK, blocks * ROW_BLOCK
    x, pull = noise(2, padded, sizes[0]), noise(2, padded, sizes[-1], seed=1)
    pull[:, rows:] = 0
    short, long = gradients(params, x[:, :rows].clone(), pull[:, :rows].clone()), gradients(params, x, pull)
    assert all(torch.equal(short[name], long[name]) for name in params)


def test_orthogonal_init_gives_orthogonal_weights_and_a_small_last_layer() -> None:
    params = init_mlp(np.random.default_rng(0), (4, 64, 2), activation="relu", init="orthogonal", last_gain=0.01)
    first, last = params["weight.0"].double(), params["weight.1"].double()
    torch.testing.assert_close(first @ first.T, 2 * torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(last.T @ last, 1e-4 * torch.eye(2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert not params["bias.0"].any() and not params["bias.1"].any()


def test_default_init_is_uniform_within_the_bounds_of_torch() -> None:
    params = init_mlp(np.random.default_rng(0), (16, 400, 2), activation="tanh", init="default", last_gain=0.01)
    for name, bound in {"weight.0": 1 / 4, "bias.0": 1 / 4, "weight.1": 1 / 20}.items():
        size = params[name].abs()
        assert 0.95 * bound < size.max() <= bound
        assert float(size.mean()) == pytest.approx(bound / 2, rel=0.1)


def test_layer_normalization_matches_values_computed_by_hand() -> None:
    x = torch.tensor([[[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]]])
    expected = torch.tensor([[[-(1.5**0.5), 0.0, 1.5**0.5], [0.0, 0.0, 0.0]]])  # variance 8/3
    torch.testing.assert_close(layer_norm(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer_norm_numpy(x.numpy()), expected, rtol=1e-5, atol=1e-5)
    layers = {"weight.0": torch.eye(3)[None], "bias.0": torch.zeros(1, 3)}
    layers |= {"weight.1": torch.eye(3)[None], "bias.1": torch.zeros(1, 3)}
    norms = {"scale.0": torch.tensor([[1.0, 2.0, 3.0]]), "shift.0": torch.tensor([[0.0, 0.5, -1.0]])}
    scaled = torch.tensor([[[-(1.5**0.5), 0.5, 3 * 1.5**0.5 - 1], [0.0, 0.5, -1.0]]])
    torch.testing.assert_close(trunk(layers, x, "identity", norms), scaled, rtol=1e-5, atol=1e-5)
    acted = mlp_numpy(
        numpy_layers({k: v.numpy() for k, v in layers.items()}),
        x.numpy(),
        "identity",
        numpy_norms({k: v.numpy() for k, v in norms.items()}),
    )
    np.testing.assert_allclose(acted, scaled, rtol=1e-5, atol=1e-5)


def test_layer_norm_parameters_are_initialized_to_scale_1_and_shift_0() -> None:
    assert {name: value.tolist() for name, value in init_norms((2, 1)).items()} == {
        "scale.0": [1.0, 1.0],
        "scale.1": [1.0],
        "shift.0": [0.0, 0.0],
        "shift.1": [0.0],
    }


def test_a_critic_network_can_have_several_outputs() -> None:
    """If `outputs` is given, the values have an axis for it, even if `outputs` is 1."""
    from pgzoo.ops.critics import critic_network, init_critic_network

    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    for outputs, shape in ((None, (2, 3, 5)), (1, (2, 3, 5, 1)), (6, (2, 3, 5, 6))):
        one = init_critic_network(np.random.default_rng(0), "q.", 4, (8,), outputs=outputs)
        params = {name: leaf.expand(2, *leaf.shape) for name, leaf in one.items()}
        values = critic_network(params, "q.", x, outputs=outputs)
        assert values.shape == shape
        hidden = torch.tanh(x @ one["q.weight.0"] + one["q.bias.0"])
        expected = hidden @ one["q.weight.1"] + one["q.bias.1"]
        assert torch.allclose(values, expected.reshape(shape), atol=1e-5)
