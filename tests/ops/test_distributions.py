"""Distributions compared with torch's and with numerical integrals; bit-identical alone and among other members."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor
from torch import distributions as torchs

from pgzoo.ops.distributions import Bernoulli, Beta, Categorical, DiagonalGaussian, MultiCategorical, TanhGaussian
from pgzoo.ops.families import family_for

SHAPE = (2, 3, 5)
"""Members S, steps T and rows B."""

KINDS: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    # name: (number of parameters, function from the parameters to the distribution)
    "categorical": (4, Categorical),
    "binary choice": (2, Categorical),
    "multi-categorical": (5, lambda x: MultiCategorical(x, (2, 3))),
    "bernoulli": (3, Bernoulli),
    "gaussian": (6, lambda x: DiagonalGaussian(x[..., :3], x[..., 3:] / 3)),
    "tanh": (6, lambda x: TanhGaussian(x[..., :3], x[..., 3:] / 3)),
    "beta": (6, lambda x: Beta(*(1 + F.softplus(x)).chunk(2, -1))),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def numbers(kind: str, *, scale: float = 2.0, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return scale * torch.randn(*shape, KINDS[kind][0], generator=torch.Generator().manual_seed(seed))


def build(kind: str, x: Tensor) -> Any:
    return KINDS[kind][1](x)


def noise_for(dist: Any, *shape: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    match dist:
        case DiagonalGaussian() | TanhGaussian():
            return rng.standard_normal((*shape, dist.mean.shape[-1]), np.float32)
        case Beta():
            return rng.random((*shape, dist.alpha.shape[-1]), np.float32)
        case MultiCategorical():
            return rng.random((*shape, len(dist.sizes)), np.float32)
        case Categorical() if dist.logits.shape[-1] > 2:
            return rng.random((*shape, 1), np.float32)
        case Categorical():
            return rng.logistic(size=(*shape, 1)).astype(np.float32)
    return rng.logistic(size=(*shape, dist.logits.shape[-1])).astype(np.float32)


def drawn(dist: Any, seed: int = 0) -> Tensor:
    """Draw one action for each row."""
    return torch.from_numpy(dist.draw(noise_for(dist, *SHAPE, seed=seed)))


def reference(dist: Any) -> list[tuple[Any, Callable[[Tensor], Tensor]]]:
    """Return torch's independent distributions, each with a function that selects its part of an action.

    They are in double precision, which tanh needs near ±1.
    """
    match dist:
        case MultiCategorical():
            parts = torch.split(dist.logits.double(), list(dist.sizes), -1)
            return [(torchs.Categorical(logits=p), lambda a, i=i: a[..., i]) for i, p in enumerate(parts)]
        case Categorical():
            return [(torchs.Categorical(logits=dist.logits.double()), lambda a: a)]
        case Bernoulli():
            return [(torchs.Independent(torchs.Bernoulli(logits=dist.logits.double()), 1), lambda a: a.double())]
        case Beta():
            return [(torchs.Independent(torchs.Beta(dist.alpha.double(), dist.beta.double()), 1), lambda a: a.double())]
    normal = torchs.Independent(torchs.Normal(dist.mean.double(), dist.log_std.double().exp()), 1)
    if isinstance(dist, TanhGaussian):
        squashed = torchs.TransformedDistribution(normal, [torchs.TanhTransform()])
        return [(squashed, lambda u: torch.tanh(u.double()))]
    return [(normal, lambda a: a.double())]


def close(ours: Tensor, theirs: Any) -> None:
    assert ours.shape == SHAPE
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@every_kind
def test_log_probabilities_match_torch(kind: str) -> None:
    dist = build(kind, numbers(kind))
    actions = drawn(dist)
    close(dist.log_prob(actions), sum(part.log_prob(share(actions)) for part, share in reference(dist)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tanh"])  # torch has no entropy for tanh
def test_entropies_match_torch(kind: str) -> None:
    dist = build(kind, numbers(kind))
    close(dist.entropy(), sum(part.entropy() for part, _ in reference(dist)))


@every_kind
def test_kl_divergences_match_torch_and_are_asymmetric(kind: str) -> None:
    one, other = build(kind, numbers(kind)), build(kind, numbers(kind, seed=1))
    pairs = list(zip(reference(one), reference(other), strict=True))
    close(one.kl(other), sum(torchs.kl_divergence(p, q) for (p, _), (q, _) in pairs))
    assert not torch.allclose(one.kl(other), other.kl(one), rtol=0.01)


@every_kind
def test_the_kl_divergence_of_a_distribution_from_itself_is_zero(kind: str) -> None:
    x = numbers(kind, scale=5.0)
    torch.testing.assert_close(build(kind, x).kl(build(kind, x.clone())), torch.zeros(SHAPE), rtol=0, atol=1e-6)


def test_kl_divergences_match_values_computed_by_hand() -> None:
    half, third = torch.tensor([[[[0.0, 0.0]]]]), torch.log(torch.tensor([[[[1.0, 2.0]]]]))
    # 1/2 log(1/2 / 1/3) + 1/2 log(1/2 / 2/3) = 1/2 log(9/8)
    assert Categorical(half).kl(Categorical(third)).item() == pytest.approx(0.5 * math.log(9 / 8))
    bit = Bernoulli(torch.zeros(1, 1, 1, 1)).kl(Bernoulli(torch.full((1, 1, 1, 1), math.log(2))))
    assert bit.item() == pytest.approx(0.5 * math.log(9 / 8))
    # standard normal against mean 1, deviation 2: log 2 + (1 + 1)/8 - 1/2
    zero = torch.zeros(1, 1, 1, 1)
    other = DiagonalGaussian(zero + 1, zero + math.log(2))
    assert DiagonalGaussian(zero, zero).kl(other).item() == pytest.approx(math.log(2) - 0.25)
    # Beta(1, 1) against Beta(2, 1) with density 2x: -E[log 2x] = 1 - log 2
    uniform, ramp = Beta(zero + 1, zero + 1), Beta(zero + 2, zero + 1)
    assert uniform.kl(ramp).item() == pytest.approx(1 - math.log(2), abs=1e-6)
    assert uniform.entropy().item() == pytest.approx(0.0, abs=1e-6)


# gradients


@every_kind
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
def test_gradients_are_finite_even_for_extreme_parameters(kind: str, scale: float) -> None:
    x, y = numbers(kind, scale=scale).requires_grad_(), numbers(kind, scale=scale, seed=1)
    dist = build(kind, x)
    total = dist.log_prob(drawn(dist)) + dist.entropy() + dist.kl(build(kind, y)) + build(kind, y).kl(dist)
    total.sum().backward()
    assert torch.isfinite(total).all() and torch.isfinite(x.grad).all()


@every_kind
def test_first_and_second_derivatives_match_finite_differences(kind: str) -> None:
    x = numbers(kind, scale=1.0, shape=(1, 1, 2)).double().requires_grad_()
    other = build(kind, numbers(kind, scale=1.0, shape=(1, 1, 2), seed=1).double())
    action = torch.from_numpy(build(kind, x).draw(noise_for(other, 1, 1, 2)))
    for function in (
        lambda x: build(kind, x).kl(other),
        lambda x: other.kl(build(kind, x)),
        lambda x: build(kind, x).entropy(),
        lambda x: build(kind, x).log_prob(action),
    ):
        assert torch.autograd.gradcheck(function, x, atol=1e-4)
        assert torch.autograd.gradgradcheck(function, x, atol=1e-4)


@every_kind
def test_kl_at_equality_has_zero_gradient_and_positive_curvature(kind: str) -> None:
    x = numbers(kind, scale=1.0).requires_grad_()
    old = build(kind, x.detach())
    (slope,) = torch.autograd.grad(old.kl(build(kind, x)).sum(), x, create_graph=True)
    torch.testing.assert_close(slope.detach(), torch.zeros_like(x), rtol=0, atol=1e-5)
    direction = numbers(kind, seed=2)
    (product,) = torch.autograd.grad((slope * direction).sum(), x)  # Fisher times direction, as TRPO computes it
    assert torch.isfinite(product).all()
    assert (product * direction).sum() > 0


def test_the_kl_hessian_of_a_binary_choice_matches_a_hand_computation() -> None:
    x = torch.tensor([[[[0.0, math.log(3)]]]], requires_grad=True)  # p = 1/4, 3/4
    hessian = torch.autograd.functional.hessian(lambda x: Categorical(x.detach()).kl(Categorical(x)).sum(), x)
    assert hessian.reshape(2, 2).numpy() == pytest.approx(3 / 16 * np.array([[1, -1], [-1, 1]]))


# bounded distributions: tanh and beta


def test_a_squashed_log_probability_matches_a_value_computed_by_hand() -> None:
    zero = torch.zeros(1, 1, 1, 1)
    u = zero + math.log(2)  # tanh(log 2) = 3/5, so the slope is 16/25
    expected = -0.5 * math.log(2) ** 2 - 0.5 * math.log(2 * math.pi) - math.log(16 / 25)
    assert TanhGaussian(zero, zero).log_prob(u).item() == pytest.approx(expected)


def test_a_squashed_log_probability_is_exact_where_tanh_is_one_in_float32() -> None:
    u = torch.full((1, 1, 1, 1), 30.0)
    slope = 2 * math.log(2) - 60  # log(1 - tanh² u) = 2 log 2 - 2u + O(exp(-2u))
    expected = -0.5 * math.log(2 * math.pi) - slope
    assert TanhGaussian(u, torch.zeros_like(u)).log_prob(u).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("std", [0.01, 0.1, 0.5, 1.0, 2.0, 3.0])
def test_the_squashed_entropy_and_its_gradient_match_numerical_integration(std: float) -> None:
    mean = torch.linspace(-6, 6, 41, dtype=torch.float64).reshape(41, 1, 1, 1).requires_grad_()
    log_std = torch.full_like(mean, math.log(std)).requires_grad_()
    z = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    u = (mean + log_std.exp() * z).movedim(-1, 0).unsqueeze(-1)  # [Z, S, T, B, A]
    surprise = -TanhGaussian(mean, log_std).log_prob(u)
    expected = (surprise * density.reshape(-1, 1, 1, 1)).sum(0)
    entropy = TanhGaussian(mean.float(), log_std.float()).entropy()
    torch.testing.assert_close(entropy.double(), expected, rtol=0, atol=1e-3)
    theirs = torch.autograd.grad(expected.sum(), (mean, log_std))
    ours = torch.autograd.grad(entropy.sum(), (mean, log_std))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


def test_the_squashed_entropy_is_below_that_of_the_uniform_distribution() -> None:
    mean, log_std = torch.zeros(1, 1, 200, 1), torch.linspace(-5, 2, 200).reshape(1, 1, 200, 1)
    entropy = TanhGaussian(mean, log_std).entropy()
    assert entropy.max() < math.log(2)
    assert 0.8 < log_std.flatten()[entropy.argmax()].exp() < 1.0  # the standard deviation of the flattest distribution


@pytest.mark.parametrize(
    "dist",
    [
        TanhGaussian(torch.tensor([0.5]), torch.tensor([0.3])),
        TanhGaussian(torch.tensor([-1.0]), torch.tensor([-1.0])),
        Beta(torch.tensor([1.5]), torch.tensor([4.0])),
        Beta(torch.tensor([1.0]), torch.tensor([1.0])),
        Beta(torch.tensor([300.0]), torch.tensor([200.0])),
    ],
    ids=["wide tanh", "narrow tanh", "skewed beta", "flat beta", "narrow beta"],
)
def test_draws_follow_the_density_which_integrates_to_one(dist: TanhGaussian | Beta) -> None:
    count = 100_000
    squashed = isinstance(dist, TanhGaussian)
    grid = torch.linspace(-1 if squashed else 0, 1, 100_002, dtype=torch.float64)[1:-1]
    at = torch.atanh(grid) if squashed else grid
    density = dist.map(Tensor.double).log_prob(at.unsqueeze(-1)).exp()
    cumulative = (density.cumsum(0) * (grid[1] - grid[0])).numpy()
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-3)
    actions = np.sort(dist.draw(noise_for(dist, count))[:, 0].astype(np.float64))
    expected = np.interp(np.tanh(actions) if squashed else actions, grid.numpy(), cumulative)
    distance = np.abs(expected - np.arange(1, count + 1) / count).max()
    assert distance < 1.95 / count**0.5 + 1e-3  # Kolmogorov-Smirnov at 0.1%, plus the error of the grid


def test_a_beta_log_probability_and_its_gradient_are_finite_at_0_and_1() -> None:
    dist = Beta(torch.tensor([2.0, 2.0, 2.0]).requires_grad_(), torch.tensor([3.0, 3.0, 3.0]))
    found = dist.log_prob(torch.tensor([[0.0, 0.5, 1.0]] * 4))
    # density 12 x (1-x)²; 0 and 1 are moved inward by 1e-6
    expected = math.log(12e-6) + math.log(12 * 0.125) + math.log(12e-12)
    assert found.tolist() == pytest.approx([expected] * 4, rel=1e-2)  # 1 - 1e-6 is rounded in float32
    found.sum().backward()
    assert dist.alpha.grad is not None and torch.isfinite(dist.alpha.grad).all()


def test_a_beta_maps_uniform_noise_to_its_quantiles() -> None:
    dist = Beta(torch.tensor([2.0]), torch.tensor([1.0]))  # the cumulative distribution is x²
    found = dist.draw(np.array([[0.0], [0.25], [0.81], [1.0]], np.float32))
    assert found[:, 0].tolist() == pytest.approx([0, 0.5, 0.9, 1]) and found.dtype == np.float32


# modes, selected rows, and shifts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tanh"])  # mode() of tanh is the median
def test_draws_are_never_more_likely_than_the_mode(kind: str) -> None:
    dist = build(kind, numbers(kind))
    mode = torch.from_numpy(dist.mode())
    likeliest = dist.log_prob(mode)
    for seed in range(50):
        assert (dist.log_prob(drawn(dist, seed)) <= likeliest + 1e-6).all()
    if kind in ("gaussian", "beta"):
        for nearby in (mode - 1e-2, mode + 1e-2):
            assert (dist.log_prob(nearby) < likeliest).all()


def test_modes_match_values_computed_by_hand() -> None:
    zero = torch.zeros(1)
    assert Beta(zero + 3, zero + 2).mode().tolist() == pytest.approx([2 / 3])
    assert Beta(zero + 1, zero + 1).mode().tolist() == [0.5]
    assert Beta(zero + 1, zero + 2).mode().tolist() == pytest.approx([0.0])
    assert TanhGaussian(zero + 3, zero).mode().tolist() == [3.0]
    assert Categorical(torch.tensor([1.0, 3.0, 3.0])).mode().tolist() == 1


@every_kind
def test_draws_and_modes_have_the_same_shape_and_dtype(kind: str) -> None:
    dist = build(kind, numbers(kind).requires_grad_())
    draw, mode = dist.draw(noise_for(dist, *SHAPE)), dist.mode()
    assert draw.shape == mode.shape and draw.shape[:3] == SHAPE
    assert draw.dtype == mode.dtype == (np.float32 if kind in ("gaussian", "tanh", "beta") else np.int64)


@every_kind
def test_selecting_rows_of_a_distribution_selects_rows_of_its_results(kind: str) -> None:
    dist, rows = build(kind, numbers(kind)), torch.tensor([3, 0])
    actions = drawn(dist)
    cut = dist.map(lambda x: x[:, :, rows])
    assert type(cut) is type(dist)
    torch.testing.assert_close(cut.log_prob(actions[:, :, rows]), dist.log_prob(actions)[:, :, rows], rtol=0, atol=0)
    torch.testing.assert_close(cut.entropy(), dist.entropy()[:, :, rows], rtol=0, atol=0)
    assert (cut.kl(dist.map(lambda x: x[:, :, rows])).abs() < 1e-6).all()


@every_kind
def test_a_detached_distribution_has_no_gradient(kind: str) -> None:
    x = numbers(kind).requires_grad_()
    dist = build(kind, x)
    assert dist.entropy().requires_grad
    assert not dist.map(Tensor.detach).entropy().requires_grad


@pytest.mark.parametrize("kind", ["gaussian", "tanh"])
def test_shifting_a_distribution_moves_its_mode_and_keeps_its_deviation(kind: str) -> None:
    dist, offset = build(kind, numbers(kind)), torch.randn(*SHAPE, 3)
    shifted = dist.shift(offset)
    assert type(shifted) is type(dist)
    torch.testing.assert_close(torch.from_numpy(shifted.mode()), torch.from_numpy(dist.mode()) + offset)
    torch.testing.assert_close(shifted.log_std, dist.log_std)
    torch.testing.assert_close(dist.kl(shifted), (0.5 * (offset * (-dist.log_std).exp()).square()).sum(-1))


# the seed law: bit-identical results alone and among other members

SPACES: dict[str, tuple[Any, dict[str, Any]]] = {
    "categorical": (Discrete(5), {}),
    "binary choice": (Discrete(2), {}),
    "multi-categorical": (MultiDiscrete([2, 3, 7]), {}),
    "bernoulli": (MultiBinary(3), {}),
    **{
        f"{name} {size}{' of state' * state_std}": (
            Box(-1.0, 1.0, (size,)),
            {"distribution": name, "state_std": state_std},
        )
        for name in ("gaussian", "tanh", "beta")
        for size in (1, 3, 6, 17)
        for state_std in (False, True)
        if not (state_std and name == "beta")
    },
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("rows", [16, 48, 256])
def test_a_member_gets_bit_identical_results_alone_and_among_ten(name: str, rows: int) -> None:
    space, options = SPACES[name]
    one = family_for(space, "", **options)
    draw = torch.Generator().manual_seed(0)
    outputs, others = (torch.randn(10, 1, rows, one.outputs, generator=draw) for _ in range(2))
    log_std = torch.randn(10, 1, 1, one.scale_size, generator=draw) if one.scale_size else None
    noise = torch.rand(10, 1, rows, one.noise_size, generator=draw).numpy()
    weights = torch.randn(10, 1, rows, generator=draw)

    def bits(members: slice) -> dict[str, Tensor]:
        x = outputs[members].clone().requires_grad_()
        scale = None if log_std is None else log_std[members].clone().requires_grad_()
        dist = one.distribution(x, scale)
        other = one.distribution(others[members].clone(), None if scale is None else scale.detach() + 0.1)
        actions = dist.draw(noise[members])
        found = {
            "log_prob": dist.log_prob(torch.from_numpy(actions)),
            "entropy": dist.entropy(),
            "kl": dist.kl(other),
            "reverse": other.kl(dist),
        }
        sum((value * weights[members]).sum() for value in found.values()).backward()
        found |= {"draw": torch.from_numpy(actions), "mode": torch.from_numpy(dist.mode()), "gradient": x.grad}
        if scale is not None and scale.grad is not None:
            found["gradient of scale"] = scale.grad
        return found

    among = bits(slice(None))
    for member in range(10):
        for what, value in bits(slice(member, member + 1)).items():
            assert torch.equal(value[0], among[what][member]), what


@pytest.mark.parametrize("name", ["gaussian", "tanh"])
@pytest.mark.parametrize("size", [1, 3, 6])
def test_padding_does_not_change_the_gradient_of_a_learned_log_std(name: str, size: int) -> None:
    one, draw = family_for(Box(-1.0, 1.0, (size,)), "", distribution=name), torch.Generator().manual_seed(0)
    outputs, actions = (torch.randn(2, 1, 1024, size, generator=draw) for _ in range(2))
    weights = torch.randn(2, 1, 1024, generator=draw)
    weights[:, :, 250:] = 0.0

    def gradient(rows: int) -> Tensor:
        log_std = torch.zeros(2, 1, 1, size, requires_grad=True)
        dist = one.distribution(outputs[:, :, :rows], log_std)
        value = dist.log_prob(actions[:, :, :rows]) + dist.entropy()
        (value * weights[:, :, :rows]).sum().backward()
        assert log_std.grad is not None
        return log_std.grad

    assert torch.equal(gradient(256), gradient(512)) and torch.equal(gradient(256), gradient(1024))
