"""A policy as two files that anybody can read: tensors in safetensors, all else in JSON. No code, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from pgzoo.errors import ConfigError, UnfitError
from pgzoo.ops.acting import actor_for, state_size
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.members import select
from pgzoo.ops.normalize import NormalizedPolicy
from pgzoo.protocols import Policy
from pgzoo.types import ActorInputs, Array, Params, Spec

if TYPE_CHECKING:
    from pgzoo.config import Component
    from pgzoo.registry import Catalog

__all__ = ["LoadedPolicy", "load_policy", "pack"]

SCHEMA = 1
CRITIC = "critic."
POLICY_NEEDS = frozenset({"value", "aux_value", "shift"})
TENSORS, DESCRIPTION = "policy.safetensors", "policy.json"


class LoadedPolicy:
    """One member's policy, ready to act. Make it with `load_policy`, or take it from a run's result."""

    def __init__(self, component: Component, spec: Spec, policy: Policy, params: Params) -> None:
        self.component, self.spec, self.policy, self.params = component, spec, policy, params
        self._actor = actor_for(policy, params)
        self._rng = np.random.default_rng()
        self._state: Array | None = None

    def reset(self) -> None:
        """Begin an episode: a policy with memory forgets. One without needs no reset."""
        self._state = None

    def act(
        self,
        obs: Any,
        *,
        deterministic: bool = False,
        rng: np.random.Generator | None = None,
        action_mask: Any = None,
    ) -> Any:
        """Choose an action for one observation of the environment, or an array of actions for a stack of them.

        Observations that are flattened (Tuple, Dict and the like) come one at a time. A policy with memory remembers
        from call to call until `reset`. `action_mask` says what is allowed now, `[K]` or a stack of such.

        Actions are sampled, with `rng` where it is given; `deterministic` takes the mode.

        Raises:
            ValueError: the observation has another shape than the environment's, or a policy with memory is given more
                or fewer of them than it remembers.
        """
        original, space = self.spec.original_space, self.spec.observation_space
        if original != space:
            flat = gym.spaces.flatten(original, obs)
            obs = flat
        obs = np.asarray(obs, dtype=space.dtype)
        shape = space.shape or ()
        if obs.shape != shape and obs.shape[1:] != shape:
            raise ValueError(f"expected an observation of shape {shape}, or a stack of them; got {obs.shape}")
        single = obs.shape == shape
        rows = obs.reshape(1, -1, *shape)
        noise = None
        if not deterministic:
            size = (1, rows.shape[1], self.policy.noise_size)
            noise = draw_noise(self.policy.noise, rng or self._rng, size)
        if self._state is not None and self._state.shape[1] != rows.shape[1]:
            raise ValueError(
                f"{rows.shape[1]} observations for a memory of {self._state.shape[1]}; call reset() to begin anew"
            )
        starts = np.full((1, rows.shape[1]), self._state is None)
        if self._state is None and (memory := state_size(self.policy)):
            self._state = np.zeros((1, rows.shape[1], memory), np.float32)
        mask = None if action_mask is None else np.asarray(action_mask, np.bool_).reshape(1, rows.shape[1], -1)
        drawn, self._state = self._actor(ActorInputs(rows, mask, self._state, starts), noise)
        actions = self.policy.to_env(drawn[0])
        return actions[0] if single else actions

    def save(self, folder: str | Path) -> Path:
        """Write the two files into `folder` (made if it isn't there) and return it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in pack(self.component, self.spec, self.policy, self.params, 0).items():
            (folder / name).write_bytes(data)
        return folder


def pack(component: Component, spec: Spec, policy: Policy, params: Params, member: int) -> dict[str, bytes]:
    """Return the files of one member's policy, by name; `params` are `[S, ...]`, under the policy's own names.

    Its critic is left out: it is of no use for acting.
    """
    from safetensors.torch import save

    acting = {name: value for name, value in params.items() if not name.startswith(CRITIC)}
    one = {name: value.detach().contiguous() for name, value in select(acting, [member]).items()}
    description = {
        "schema": SCHEMA,
        "pgzoo": version("pgzoo"),
        "policy": component.nested(),
        "normalize_obs": isinstance(policy, NormalizedPolicy),
        "masked": spec.masked,
        "observation_space": _space_to_json(spec.original_space),
        "action_space": _space_to_json(spec.action_space),
    }
    return {TENSORS: save(one), DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode()}


def load_policy(path: str | Path, catalog: Catalog | None = None) -> LoadedPolicy:
    """Load a policy from its folder, or from one of its two files.

    The policy's class comes from an installed plugin, never from the files.

    Raises:
        ConfigError: the files are missing, damaged, or of a newer schema.
        UnknownName: no installed plugin gives a policy of that name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from pgzoo.config import resolve_component

    path = Path(path)
    folder = path if path.is_dir() else path.parent
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        params = load((folder / TENSORS).read_bytes())
        if description["schema"] > SCHEMA:
            raise ConfigError(
                f"{folder} was written by pgzoo {description['pgzoo']}, in a newer form than this version reads. "
                "Upgrade: pip install -U pgzoo"
            )
        original = _space_from_json(description["observation_space"])
        action_space = _space_from_json(description["action_space"])
        named, normalize_obs = description["policy"], bool(description.get("normalize_obs"))
        masked = bool(description.get("masked"))
    except OSError as error:
        raise ConfigError(f"No policy in {folder}: {error.strerror}: {error.filename}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, SafetensorError) as error:
        raise ConfigError(f"The policy in {folder} is damaged: {type(error).__name__}: {error}.") from error
    if catalog is None:
        from pgzoo.registry import discover

        catalog = discover()
    component, factory = resolve_component("policy", named, catalog)
    spec = make_spec(original, action_space, masked=masked)
    policy = make_policy(factory, component.settings, spec, frozenset(), normalize_obs)
    _check_shapes(policy, params, folder)
    return LoadedPolicy(component, spec, policy, params)


def make_policy(factory: Any, settings: Any, spec: Spec, needs: frozenset[str], normalize_obs: bool) -> Policy:
    """Build a policy by its factory. Raises UnfitError where it doesn't fit."""
    policy: Policy = factory(settings, spec, needs & POLICY_NEEDS)
    return NormalizedPolicy(policy, spec) if normalize_obs else policy


def make_spec(original: gym.Space[Any], action_space: gym.Space[Any], *, masked: bool = False) -> Spec:
    """Return the specification of an environment that shows `original`: all but Box and Discrete is flattened.

    Raises:
        UnfitError: an image is among the parts of a Tuple or Dict; flattened, it would be no image any more.
    """
    parts = original.spaces.values() if isinstance(original, gym.spaces.Dict) else getattr(original, "spaces", ())
    if any(isinstance(part, gym.spaces.Box) and part.dtype == np.uint8 and len(part.shape) == 3 for part in parts):
        raise UnfitError(f"The observation space {original} has images among its parts; no policy takes those yet.")
    plain = isinstance(original, gym.spaces.Box | gym.spaces.Discrete)
    return Spec(original if plain else gym.spaces.flatten_space(original), action_space, original, masked)


def _check_shapes(policy: Policy, params: Mapping[str, Any], folder: Path) -> None:
    all_of_it = policy.init(np.random.default_rng(0)) | getattr(policy, "buffers", dict)()
    expected = {name: tuple(v.shape) for name, v in all_of_it.items()}
    found = {name: tuple(v.shape[1:]) for name, v in params.items()}
    if expected != found:
        raise ConfigError(f"The policy in {folder} is damaged: it needs tensors {expected}, the file has {found}.")


def _space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    match space:
        case gym.spaces.Box():
            low, high = _bounds(space.low), _bounds(space.high)
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
        case gym.spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case gym.spaces.MultiDiscrete():
            return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
        case gym.spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case gym.spaces.Tuple():
            return {"type": "Tuple", "spaces": [_space_to_json(part) for part in space.spaces]}
        case gym.spaces.Dict():
            return {"type": "Dict", "spaces": {key: _space_to_json(part) for key, part in space.spaces.items()}}
    raise ConfigError(f"A policy can't be saved for the space {space}.")


def _space_from_json(data: Mapping[str, Any]) -> gym.Space[Any]:
    match data["type"]:
        case "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            low, high = (np.array([*map(dtype.type, data[key])], dtype).reshape(shape) for key in ("low", "high"))
            return gym.spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return gym.spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            return gym.spaces.MultiDiscrete(np.asarray(data["nvec"]), start=np.asarray(data["start"]))
        case "MultiBinary":
            shape = data["shape"]
            return gym.spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        case "Tuple":
            return gym.spaces.Tuple([_space_from_json(part) for part in data["spaces"]])
        case "Dict":
            # as pairs, in the order of the file: flattening goes by it, and a mapping would be sorted
            return gym.spaces.Dict([(key, _space_from_json(part)) for key, part in data["spaces"].items()])
    raise ValueError(f"unknown space {data['type']}")


def _bounds(values: Array) -> list[float | str]:
    """JSON has no infinity: it is written as a string, which numpy reads back."""
    return [v if np.isfinite(v) else str(v) for v in values.ravel().tolist()]
