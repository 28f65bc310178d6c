"""Which observations count as images; the encoder of vector observations refuses those."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.ops.entries import PackedSpace, is_image
from pgzoo.ops.heads import ObsEncoder


def pixels(*shape: int, dtype: type = np.uint8) -> Box:
    return Box(0, 255, shape, dtype)


@pytest.mark.parametrize("shape", [(84, 84, 4), (4, 84, 84), (64, 64, 3), (210, 160, 1), (16, 16, 3), (3, 16, 32)])
def test_pixels_with_few_channels_are_images(shape: tuple[int, ...]) -> None:
    assert is_image(pixels(*shape))
    with pytest.raises(UnfitError, match="not images"):
        ObsEncoder(pixels(*shape), "policy")
    spec = make_spec(gym.spaces.Dict({"camera": pixels(*shape)}), gym.spaces.Discrete(2))
    assert isinstance(spec.observation_space, PackedSpace)


@pytest.mark.parametrize("shape", [(4, 4, 16), (7, 7, 3), (19, 19, 17), (15, 16, 3), (16, 3, 16), (8, 8), (4, 7, 7, 3)])
def test_boards_and_grids_are_vectors(shape: tuple[int, ...]) -> None:
    assert not is_image(pixels(*shape))
    assert ObsEncoder(pixels(*shape), "policy").size == np.prod(shape)
    spec = make_spec(gym.spaces.Dict({"board": pixels(*shape)}), gym.spaces.Discrete(2))
    assert spec.observation_space.shape == (np.prod(shape),)


@pytest.mark.parametrize("shape", [(4, 84, 84, 3), (2, 3, 16, 16), (4, 84, 84, 1)])
def test_stacked_images_are_refused_where_a_single_one_is(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnfitError, match="not images"):
        ObsEncoder(pixels(*shape), "policy")
    spec = make_spec(gym.spaces.Dict({"frames": pixels(*shape)}), gym.spaces.Discrete(2))
    assert spec.observation_space.shape == (np.prod(shape),)


def test_floating_point_arrays_are_not_images() -> None:
    assert not is_image(pixels(84, 84, 3, dtype=np.float32))


def test_a_board_is_flattened_to_one_row_of_numbers() -> None:
    board = np.arange(7 * 7 * 3, dtype=np.uint8).reshape(1, 1, 7, 7, 3)
    encoded = ObsEncoder(pixels(7, 7, 3), "policy").encode_numpy(board)
    np.testing.assert_array_equal(encoded, np.arange(147.0)[None, None])
