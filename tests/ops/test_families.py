"""Distribution families: acting agrees with learning, masks forbid actions, and actions fit the action space."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pgzoo.errors import UnfitError
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.families import Family, family_for, masked

BOX = Box(-1.0, 1.0, (3,))
FAMILIES: dict[str, Family] = {
    "categorical": family_for(Discrete(4), ""),
    "binary choice": family_for(Discrete(2), ""),
    "one action": family_for(Discrete(1), ""),
    "multi-categorical": family_for(MultiDiscrete([2, 3]), ""),
    "bernoulli": family_for(MultiBinary(3), ""),
    "gaussian": family_for(BOX, ""),
    "gaussian of state": family_for(BOX, "", state_std=True),
    "tanh": family_for(BOX, "", distribution="tanh"),
    "tanh of state": family_for(BOX, "", distribution="tanh", state_std=True),
    "beta": family_for(BOX, "", distribution="beta"),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
CHOICES = {"categorical": (4,), "binary choice": (2,), "multi-categorical": (2, 3), "bernoulli": (1, 1, 1)}
"""Sizes of the choices to which an action mask applies."""


def noise_for(one: Family, *shape: int) -> Any:
    return draw_noise(one.noise, np.random.default_rng(0), (*shape, one.noise_size))


@every_family
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_numpy_acting_agrees_with_the_torch_distribution(name: str, scale: float) -> None:
    one, draw = FAMILIES[name], torch.Generator().manual_seed(0)
    outputs = scale * torch.randn(2, 1, 50, one.outputs, generator=draw)
    log_std = torch.randn(2, 1, 1, one.scale_size, generator=draw) if one.scale_size else None
    noise = noise_for(one, 2, 1, 50)
    dist: Any = one.distribution(outputs, log_std)
    acted = one.draw(outputs.numpy(), None if log_std is None else log_std.numpy(), noise)
    shape = () if one.name == "categorical" else (2,) if one.name == "multi-categorical" else (3,)
    assert acted.shape == (2, 1, 50, *shape)
    assert acted.dtype == (np.int64 if one.noise == "logistic" or "categorical" in one.name else np.float32)
    np.testing.assert_allclose(acted, dist.draw(noise), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.mode(outputs.numpy()), dist.mode(), rtol=1e-5, atol=1e-6)
    assert one.mode(outputs.numpy()).dtype == dist.mode().dtype == acted.dtype
    assert torch.isfinite(dist.log_prob(torch.from_numpy(acted))).all()


@every_family
def test_every_tensor_of_a_distribution_has_the_full_batch_shape(name: str) -> None:
    one = FAMILIES[name]
    shapes: list[torch.Size] = []
    dist: Any = one.distribution(torch.zeros(2, 3, 5, one.outputs), torch.zeros(2, 1, 1, one.scale_size))

    def note(x: torch.Tensor) -> torch.Tensor:
        shapes.append(x.shape)
        return x

    dist.map(note)
    assert shapes and all(shape[:3] == (2, 3, 5) for shape in shapes) and len(set(shapes)) == 1


def test_modes_match_values_computed_by_hand() -> None:
    def mode(name: str, outputs: list[float]) -> Any:
        return FAMILIES[name].mode(np.array(outputs, np.float32)).tolist()

    assert mode("categorical", [0.0, 3.0, 1.0, 2.0]) == 1
    assert mode("multi-categorical", [0.0, 1.0, 5.0, 1.0, 2.0]) == [1, 0]
    assert mode("bernoulli", [-1.0, 0.5, 0.0]) == [0, 1, 0]
    assert mode("gaussian", [0.5, 9.0, -9.0]) == [0.5, 9.0, -9.0]
    assert mode("tanh of state", [0.5, 9.0, -9.0, 1.0, 2.0, 3.0]) == [0.5, 9.0, -9.0]
    softplus = np.log1p(np.exp([1.0, 2.0]))
    assert mode("beta", [1.0, -200.0, 0.0, 2.0, -200.0, 0.0]) == pytest.approx([softplus[0] / softplus.sum(), 0.5, 0.5])


def test_a_state_dependent_log_std_is_clamped() -> None:
    outputs = torch.tensor([[[[0.0, 0.0, 0.0, -50.0, 1.0, 50.0]]]])
    dist: Any = FAMILIES["gaussian of state"].distribution(outputs, None)
    assert dist.log_std.tolist() == [[[[-5.0, 1.0, 2.0]]]]
    drawn = FAMILIES["gaussian of state"].draw(outputs.numpy(), None, np.ones((1, 1, 1, 3), np.float32))
    assert drawn[0, 0, 0].tolist() == pytest.approx(np.exp([-5.0, 1.0, 2.0]).tolist())


def test_families_have_the_expected_output_scale_and_noise_sizes() -> None:
    found = {name: (one.outputs, one.scale_size, one.noise_size) for name, one in FAMILIES.items()}
    assert found == {
        "categorical": (4, 0, 1),
        "binary choice": (2, 0, 1),
        "one action": (1, 0, 1),
        "multi-categorical": (5, 0, 2),
        "bernoulli": (3, 0, 3),
        "gaussian": (3, 3, 3),
        "gaussian of state": (6, 0, 3),
        "tanh": (3, 3, 3),
        "tanh of state": (6, 0, 3),
        "beta": (6, 0, 3),
    }


# masks


@st.composite
def masks(draw: st.DrawFn) -> tuple[str, Any, Any, Any]:
    """Draw a family's name, outputs, a mask that leaves an option of each choice, and possibly extreme noise."""
    name = draw(st.sampled_from(sorted(CHOICES)))
    one = FAMILIES[name]
    outputs = draw(arrays.arrays(np.float32, one.outputs, elements=st.floats(-1000, 1000, width=32)))
    allowed = draw(arrays.arrays(np.int8, one.outputs, elements=st.integers(0, 1)))
    if name != "bernoulli":
        for start, stop in pairwise(np.cumsum([0, *CHOICES[name]])):
            allowed[draw(st.integers(start, stop - 1))] = 1
    extremes = [0.0, 0.5, 1 - 2**-24] if one.noise == "uniform" else [-np.inf, -16.0, 0.0, 16.0, np.inf]
    noise = draw(arrays.arrays(np.float32, one.noise_size, elements=st.sampled_from(extremes)))
    return name, outputs, allowed, noise


def is_allowed(name: str, actions: Any, allowed: Any) -> bool:
    if name == "bernoulli":
        return bool((np.asarray(actions) <= allowed).all())
    starts = np.cumsum([0, *CHOICES[name]])[:-1]
    return bool(allowed[starts + np.atleast_1d(actions)].all())


@given(masks())
@settings(deadline=None, max_examples=400)
def test_a_forbidden_action_is_never_taken(case: tuple[str, Any, Any, Any]) -> None:
    name, outputs, allowed, noise = case
    one, logits = FAMILIES[name], masked(outputs, allowed)
    assert logits.dtype == np.float32
    assert is_allowed(name, one.draw(logits, None, noise), allowed)
    assert is_allowed(name, one.mode(logits), allowed)
    dist: Any = one.distribution(masked(torch.from_numpy(outputs), torch.from_numpy(allowed)), None)
    assert is_allowed(name, dist.draw(noise), allowed) and is_allowed(name, dist.mode(), allowed)


@given(masks())
@settings(deadline=None, max_examples=200)
def test_a_masked_distribution_has_finite_values_and_gradients(case: tuple[str, Any, Any, Any]) -> None:
    name, outputs, allowed, noise = case
    one, mask = FAMILIES[name], torch.from_numpy(allowed)
    x = torch.from_numpy(outputs / 100).requires_grad_()
    dist: Any = one.distribution(masked(x, mask), None)
    other: Any = one.distribution(masked(torch.zeros_like(x), mask), None)
    free = [allowed[i:j].sum() for i, j in pairwise(np.cumsum([0, *CHOICES[name]]))]
    most = sum(np.log(2) * n if name == "bernoulli" else np.log(n) for n in free)
    assert -1e-6 <= dist.entropy().item() <= most + 1e-5
    assert dist.kl(dist.map(torch.clone)).item() == 0
    assert -1e-5 <= dist.kl(other).item() < 100
    log_prob = dist.log_prob(torch.from_numpy(np.asarray(one.draw(masked(outputs / 100, allowed), None, noise))))
    (slope,) = torch.autograd.grad(
        dist.entropy() + dist.kl(other) + other.kl(dist) + log_prob, x, create_graph=True, materialize_grads=True
    )
    assert torch.isfinite(slope).all() and (slope[mask == 0] == 0).all()
    (second,) = torch.autograd.grad(slope.sum(), x, allow_unused=True, materialize_grads=True)
    assert torch.isfinite(second).all() and (second[mask == 0] == 0).all()


def test_allowed_actions_share_the_probability_of_forbidden_actions() -> None:
    logits = np.log(np.array([1.0, 2.0, 3.0, 4.0], np.float32))
    allowed = np.array([True, False, True, False])
    dist: Any = FAMILIES["categorical"].distribution(masked(torch.from_numpy(logits), torch.from_numpy(allowed)), None)
    assert dist.log_prob(torch.tensor(0)).exp().item() == pytest.approx(1 / 4)
    assert dist.log_prob(torch.tensor(2)).exp().item() == pytest.approx(3 / 4)
    assert [dist.log_prob(torch.tensor(action)).exp().item() for action in (1, 3)] == [0, 0]
    noise = noise_for(FAMILIES["categorical"], 100_000)
    share = FAMILIES["categorical"].draw(masked(logits, allowed), None, noise).mean() / 2
    assert share == pytest.approx(3 / 4, abs=0.006)


def test_each_row_has_its_own_mask() -> None:
    allowed = np.array([[1, 0], [0, 1]])
    found = masked(np.zeros((2, 2), np.float32), allowed)
    assert FAMILIES["binary choice"].mode(found).tolist() == [0, 1]
    assert torch.equal(masked(torch.zeros(2, 2), torch.from_numpy(allowed)), torch.from_numpy(found))


# actions that the environment receives


def test_box_actions_are_clipped_and_reshaped_to_fit_the_space() -> None:
    space = Box(np.array([[-1, -2, -3]] * 2, np.float32), np.array([[1, 2, 3]] * 2, np.float32))
    actions = family_for(space, "").to_env(np.array([[9.0, -9.0, 0.5, -0.5, 1.0, 9.0]], np.float32))
    assert actions.tolist() == [[[1.0, -2.0, 0.5], [-0.5, 1.0, 3.0]]]
    assert space.contains(actions[0])


def test_actions_in_an_unbounded_box_are_not_clipped() -> None:
    space = Box(-np.inf, np.inf, (1,), np.float64)
    actions = family_for(space, "").to_env(np.array([[1e6]], np.float32))
    assert actions.tolist() == [[1e6]] and actions.dtype == np.float64


@pytest.mark.parametrize("start", [-1, 0, 5])
def test_discrete_actions_are_offset_by_the_start_of_the_space(start: int) -> None:
    space = Discrete(3, start=start)
    actions = family_for(space, "").to_env(np.array([0, 2]))
    assert actions.tolist() == [start, start + 2]
    assert all(space.contains(action) for action in actions)


def test_multi_discrete_actions_are_offset_by_the_starts_of_the_space() -> None:
    space = MultiDiscrete([2, 3], start=[10, -1])
    actions = family_for(space, "").to_env(np.array([[0, 0], [1, 2]]))
    assert actions.tolist() == [[10, -1], [11, 1]]
    assert all(space.contains(action) for action in actions)


def test_multi_binary_actions_are_contained_in_the_space() -> None:
    space = MultiBinary(3)
    assert space.contains(family_for(space, "").to_env(np.array([[0, 1, 1]]))[0])


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Tuple([Discrete(2)]),
        gym.spaces.Dict({"a": Discrete(2)}),
        Box(0, 5, (2,), np.int64),
        MultiBinary([2, 2]),
    ],
)
def test_unsupported_action_spaces_are_refused_with_an_error_that_names_them(space: gym.Space[Any]) -> None:
    with pytest.raises(UnfitError) as caught:
        family_for(space, 'policy "mlp"')
    assert str(caught.value).startswith(f'policy "mlp" doesn\'t fit the action space {space}.')
    assert "pgzoo policies" in str(caught.value)


@pytest.mark.parametrize("distribution", ["categorical", "multi-categorical", "bernoulli", "gaussian", "tanh", "beta"])
def test_the_error_for_a_distribution_that_does_not_fit_lists_those_that_do(distribution: str) -> None:
    homes = {
        "categorical": Discrete(3),
        "multi-categorical": MultiDiscrete([2, 3]),
        "bernoulli": MultiBinary(3),
        "gaussian": BOX,
    }
    for default, space in homes.items():
        if default == distribution or (default == "gaussian" and distribution in ("tanh", "beta")):
            assert family_for(space, "", distribution=distribution).name == distribution
            continue
        fit = {"gaussian": "gaussian, tanh, beta", "categorical": "categorical, epsilon-greedy"}.get(default, default)
        with pytest.raises(UnfitError) as caught:
            family_for(space, 'policy "mlp"', distribution=distribution)
        assert str(caught.value) == (
            f'policy "mlp": the distribution "{distribution}" doesn\'t fit the action space {space}. These do: {fit}.'
        )


def test_the_error_for_a_misspelled_distribution_suggests_the_right_one() -> None:
    with pytest.raises(UnfitError) as caught:
        family_for(BOX, 'policy "mlp"', distribution="gausian")
    assert str(caught.value) == (
        'policy "mlp": no distribution "gausian". Did you mean "gaussian"? '
        "For Box(-1.0, 1.0, (3,), float32), choose from: auto, gaussian, tanh, beta."
    )


@pytest.mark.parametrize("space", [Box(-np.inf, np.inf, (2,)), Box(0.0, np.inf, (2,))])
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"distribution": "tanh"}, 'the distribution "tanh"'),
        ({"distribution": "beta"}, 'the distribution "beta"'),
        ({"rescale": True}, "rescale"),
    ],
)
def test_actions_that_span_the_whole_box_require_finite_bounds(space: Box, options: Any, what: str) -> None:
    with pytest.raises(UnfitError) as caught:
        family_for(space, 'policy "mlp"', **options)
    said = str(caught.value)
    assert said.startswith(f'policy "mlp": {what} maps actions onto the whole action space, and {space} has no finite')
    assert 'Use the distribution "gaussian" without rescale.' in said


@pytest.mark.parametrize(("space", "name"), [(Discrete(2), "auto"), (BOX, "beta")])
def test_state_std_is_refused_for_distributions_without_a_standard_deviation(space: gym.Space[Any], name: str) -> None:
    with pytest.raises(UnfitError, match="has no standard deviation; remove state_std"):
        family_for(space, "", distribution=name, state_std=True)


def test_squashed_and_rescaled_actions_match_values_computed_by_hand() -> None:
    space = Box(np.array([0.0, -4.0], np.float32), np.array([2.0, 0.0], np.float32))
    ends = np.array([[0.0, 0.0], [100.0, 100.0], [-100.0, -100.0]], np.float32)
    whole = [[1.0, -2.0], [2.0, 0.0], [0.0, -4.0]]
    tanh, plain = family_for(space, "", distribution="tanh"), family_for(space, "", rescale=True)
    assert tanh.to_env(ends).tolist() == whole and plain.to_env(ends).tolist() == whole
    half = np.array([[0.5, -0.5]], np.float32)
    assert plain.to_env(half).tolist() == [[1.5, -3.0]]
    assert tanh.to_env(np.arctanh(half)).ravel().tolist() == pytest.approx([1.5, -3.0])
    beta = family_for(space, "", distribution="beta")
    assert beta.to_env(np.array([[0.25, 1.0], [0.5, 0.0]], np.float32)).tolist() == [[0.5, 0.0], [1.0, -4.0]]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    width = draw(st.sampled_from([16, 32, 64]))
    edge = {16: 6e4, 32: 2.0**127, 64: 2.0**1023}[width]
    ends = draw(arrays.arrays(np.dtype(f"float{width}"), (2, 2, 2), elements=st.floats(-edge, edge, width=width)))
    return Box(ends.min(0), ends.max(0), dtype=ends.dtype.type)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"rescale": True},
    {"distribution": "tanh"},
    {"distribution": "tanh", "rescale": True},
    {"distribution": "beta"},
]


@given(boxes(), st.sampled_from(OPTIONS), st.data())
@settings(deadline=None, max_examples=300)
def test_every_action_lands_in_the_box(space: Box, options: dict[str, Any], data: st.DataObject) -> None:
    one = family_for(space, "", **options)
    low, high = (0.0, 1.0) if one.name == "beta" else (-(2.0**100), 2.0**100)
    elements = st.floats(low, high, width=32, allow_subnormal=False)
    actions = data.draw(arrays.arrays(np.float32, (3, 4), elements=elements))
    assert all(space.contains(action) for action in one.to_env(actions))


@given(boxes(), st.sampled_from(OPTIONS[1:]))
@settings(deadline=None, max_examples=100)
def test_actions_that_span_the_whole_box_reach_its_bounds(space: Box, options: dict[str, Any]) -> None:
    one = family_for(space, "", **options)
    ends = np.array([[0.0] * 4, [1.0] * 4] if one.name == "beta" else [[-50.0] * 4, [50.0] * 4], np.float32)
    lowest, highest = one.to_env(ends)
    assert np.array_equal(lowest, space.low) and np.array_equal(highest, space.high)
