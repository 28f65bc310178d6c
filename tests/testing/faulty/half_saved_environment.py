"""The state that is saved of an environment lacks one of its attributes: `continues-exactly`."""

import pgzoo
from pgzoo.envs.state import Attributes


def half():
    """Save CartPole without its attribute `state`."""
    return Attributes({"gymnasium.envs.classic_control.cartpole:CartPoleEnv": ("steps_beyond_terminated",)})


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.env_state("half", half)
