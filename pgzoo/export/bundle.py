"""A policy as two files: tensors in safetensors, everything else in JSON. No code, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from pgzoo.envs.checks import allows_action, mask_size, observation_problem
from pgzoo.envs.spec import make_spec
from pgzoo.errors import ConfigError, PgzooError
from pgzoo.export import spaces
from pgzoo.files import write_file
from pgzoo.ops.acting import actor_for, memory_size, noise_steps
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.entries import PackedSpace
from pgzoo.ops.members import select
from pgzoo.ops.normalize import NormalizedPolicy
from pgzoo.protocols import Policy
from pgzoo.training.plan import make_policy
from pgzoo.types import ActorInputs, Array, EnvRequest, Params, Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pgzoo.config import Component
    from pgzoo.registry import PluginCatalog

__all__ = ["LoadedPolicy", "load_policy", "pack"]

SCHEMA = 1
CRITIC = "critic."
TENSORS, DESCRIPTION = "policy.safetensors", "policy.json"
LONGEST = 2**26
"""Longest description that is read, in bytes."""
MOST_KEYS, MOST_TENSORS = 100, 10_000
"""Most keys of a description, and of its environment's keywords; most tensors of a policy."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class LoadedPolicy:
    """The policy of one seed, ready to act. Make it with `load_policy`, or take it from a run's result.

    `env` is the environment in which it was trained, if that is known.
    """

    def __init__(
        self, component: Component, spec: Spec, policy: Policy, params: Params, env: EnvRequest | None = None
    ) -> None:
        self.component, self.spec, self.policy, self.params, self.env = component, spec, policy, params, env
        self._actor = actor_for(policy, params)
        self._rng = np.random.default_rng()
        self._memory: Array | None = None
        self._noise: Array | None = None
        self._sampled = 0  # number of actions sampled with this noise

    @property
    def memory(self) -> int:
        """Return the size of its memory; 0 for a policy without memory."""
        return memory_size(self.policy)

    def reset(self) -> None:
        """Start an episode: clear the memory and a noise matrix that is kept. Other policies need no reset."""
        self._memory = self._noise = None

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
        from call to call until `reset`. `action_mask`: the allowed actions, `[K]` or `[N, K]`. A Tuple may come as an
        array or a list, and a category as a whole float or an array of one number.

        Actions are sampled, with `rng` where it is given; `deterministic` takes the mode.

        Raises:
            ValueError: the observation has another shape or other entries than the environment's, a category that
                doesn't exist, or values that its integer type can't represent, the mask isn't `[K]` or `[N, K]` of bool
                or 0/1 integers or allows no action, or a policy with memory is given more or fewer observations than it
                remembers.
        """
        original, space = self.spec.original_space, self.spec.observation_space
        if not isinstance(original, gym.spaces.Box | gym.spaces.Discrete):
            obs = _whole_categories(original, obs)
            # packing and flattening would accept an image of another layout or type, and other categories
            if problem := observation_problem(original, obs):
                raise ValueError(f"got the observation {problem}")
            flat: Any = gym.spaces.flatten(original, obs) if not isinstance(space, PackedSpace) else space.pack(obs)
            obs = flat
        obs, shape = np.asarray(obs), space.shape or ()
        if obs.shape != shape and obs.shape[1:] != shape:
            raise ValueError(f"expected an observation of shape {shape}, or a stack of them; got {obs.shape}")
        rows = self._read_numbers(obs.reshape(-1, *shape))
        if self._memory is not None and len(self._memory) != len(rows):
            raise ValueError(
                f"got {len(rows)} observations, but the memory is for {len(self._memory)}; call reset() first"
            )
        noise = None
        if not deterministic:
            noise = self._next_noise(rng or self._rng, len(rows))
        actions, self._memory = self.step(rows, self._memory, action_mask=action_mask, noise=noise)
        return actions[0] if obs.shape == shape else actions

    def step(
        self,
        obs: Array,
        memory: Array | None = None,
        *,
        action_mask: Any = None,
        noise: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """Return actions `[N, *A]` and memory `[N, M]` for flat observations `[N, *O]`; this object doesn't change.

        `memory` is the memory after the previous step; None at the start of an episode. `action_mask` is `[N, K]`.
        `noise` is `[N, noise_size]`; without it, the actions are the modes.

        Raises:
            ValueError: the observations have another shape, values that their integer type can't represent, or a
                category that doesn't exist, or the mask isn't `[N, K]` of bool or 0/1 integers or allows no action.
        """
        space = self.spec.observation_space
        if obs.shape[1:] != space.shape or not obs.ndim:
            raise ValueError(f"expected a stack of observations of shape {space.shape}; got {obs.shape}")
        obs = self._read_numbers(obs)
        mask = None if action_mask is None else self._read_masks(action_mask, len(obs))
        if isinstance(space, gym.spaces.Discrete):
            first, last = int(space.start), int(space.start) + int(space.n) - 1
            if not ((obs >= first) & (obs <= last)).all():  # a negative index would be another category
                shown = np.array2string(obs, threshold=8)
                raise ValueError(f"expected observations that are whole numbers from {first} to {last}; got {shown}")
        starts = np.full((1, len(obs)), memory is None)
        if memory is None and self.memory:
            memory = np.zeros((len(obs), self.memory), np.float32)

        def member(leaf: Array | None) -> Array | None:
            return None if leaf is None else leaf[None]

        drawn, after = self._actor(ActorInputs(obs[None], member(mask), member(memory), starts), member(noise))
        return self.policy.to_env(drawn[0]), None if after is None else after[0]

    def _next_noise(self, rng: np.random.Generator, rows: int) -> Array:
        """Return noise `[rows, K]`: that of the previous action while the policy keeps it, else new noise."""
        steps = noise_steps(self.policy)
        kept = self._noise is not None and len(self._noise) == rows and (steps is None or self._sampled < steps)
        if not kept:
            self._noise, self._sampled = draw_noise(self.policy.noise, rng, (rows, self.policy.noise_size)), 0
        self._sampled += 1
        assert self._noise is not None
        return self._noise

    def _read_numbers(self, obs: Array) -> Array:
        """Return flat observations in the type that the policy gets. Raises ValueError as `step` does."""
        original, space = self.spec.original_space, self.spec.observation_space
        declared = original.dtype if isinstance(original, gym.spaces.Box | gym.spaces.Discrete) else space.dtype
        with np.errstate(invalid="ignore"):  # refused below
            read = obs.astype(declared, copy=False)
        if np.issubdtype(read.dtype, np.integer) and not np.array_equal(read, obs):
            raise ValueError(f"expected an observation of {read.dtype} numbers; got {obs.dtype} values that aren't")
        return read.astype(space.dtype, copy=False)

    def _read_masks(self, mask: Any, rows: int) -> NDArray[np.bool_]:
        """Return masks `[rows, K]` as bool."""
        size, given = mask_size(self.spec.action_space), np.asarray(mask)
        fits = given.size == rows * size and (rows == 1 or len(given) == rows)
        if not fits or given.dtype.kind not in "biu" or not np.isin(given, (0, 1)).all():
            raise ValueError(
                f"expected an action mask of bool or 0/1 integers with {size} entries for each observation; "
                f"got {given.dtype} of shape {given.shape}"
            )
        masks = given.reshape(rows, size).astype(np.bool_)
        if not all(allows_action(self.spec.action_space, one) for one in masks):
            raise ValueError("the action mask allows no action")
        return masks

    def save(self, folder: str | Path) -> Path:
        """Write the two files into `folder` (made if it isn't there) and return it.

        Each file is written under a temporary name and renamed, so that a crash leaves the old file or the new one.
        """
        folder = Path(folder)
        for name, data in pack(self.component, self.spec, self.policy, self.params, 0, self.env).items():
            write_file(folder / name, data)
        return folder


def _whole_categories(space: gym.Space[Any], obs: Any) -> Any:
    """Return an observation with Tuples that came as arrays as tuples, and categories that are whole as integers.

    JSON has floats and lists for them. What doesn't fit is left for `observation_problem`.
    """
    match space:
        case gym.spaces.Tuple():
            obs = tuple(obs) if isinstance(obs, np.ndarray) and obs.ndim else obs
            if isinstance(obs, tuple | list) and len(obs) == len(space.spaces):
                return tuple(_whole_categories(part, value) for part, value in zip(space.spaces, obs, strict=True))
        case gym.spaces.Dict():
            if isinstance(obs, Mapping):
                known = space.spaces
                return {key: _whole_categories(known[key], one) if key in known else one for key, one in obs.items()}
        case gym.spaces.Discrete() | gym.spaces.MultiDiscrete() | gym.spaces.MultiBinary():
            try:
                given = np.asarray(obs)
            except ValueError:  # parts of different shapes
                return obs
            with np.errstate(invalid="ignore"):
                whole = given.astype(np.int64) if given.dtype.kind in "biuf" else None
            if whole is None or not np.array_equal(whole, given):
                return obs
            if not isinstance(space, gym.spaces.Discrete):
                return whole
            return whole.item() if whole.size == 1 else obs
    return obs


def pack(
    component: Component, spec: Spec, policy: Policy, params: Params, member: int, env: EnvRequest | None = None
) -> dict[str, bytes]:
    """Return the files of one member's policy, by name; `params` are `[S, ...]`, under the policy's own names.

    Its critic is left out: it isn't needed for acting.
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
        "memory": memory_size(policy),
        "observation_space": spaces.to_json(spec.original_space),
        "action_space": spaces.to_json(spec.action_space),
    }
    if env is not None:
        wrapping = {"wrappers": list(env.wrappers), "frame_stack": env.frame_stack} if env.wrapped else {}
        limit = {"max_episode_steps": env.max_episode_steps}
        description["env"] = {"id": env.id, "kwargs": dict(env.kwargs), **limit, **wrapping}
    return {TENSORS: save(one), DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode()}


def load_policy(
    path: str | Path, catalog: PluginCatalog | None = None, *, imports: Sequence[str | Path] = ()
) -> LoadedPolicy:
    """Load a policy from its folder, or from one of its two files.

    The policy's class comes from an installed plugin, never from the files. `imports` are modules or .py files to
    import first, for a policy that is a class or function in one of them. Declared sizes are checked before memory is
    allocated. `catalog` is where the class is looked up; by default, all plugins and `imports`.

    Raises:
        ConfigError: the files are missing, damaged, or of a newer schema.
        UnknownName: no installed plugin has a policy of that name.
    """
    from safetensors import SafetensorError, safe_open

    nonsense: tuple[type[Exception], ...] = (*NONSENSE, SafetensorError)
    path = Path(path)
    folder = path.parent if path.is_file() or path.name in (TENSORS, DESCRIPTION) else path
    try:
        described = _read_description(folder)
        if catalog is None:
            from pgzoo.registry import discover

            catalog = discover(imports=imports)
        component, spec, policy = _make(described, catalog)
        with safe_open(str(folder / TENSORS), "pt") as file:
            _check_tensors(policy, file)
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        _check_numbers(params, policy)
        return LoadedPolicy(component, spec, policy, params, described.env)
    except PgzooError as error:
        if isinstance(error, _Damaged):
            raise ConfigError(f"The policy in {folder} is damaged: {error}") from error
        raise
    except OSError as error:
        raise ConfigError(f"No policy in {folder}: {error.strerror or error}: {error.filename or TENSORS}.") from error
    except nonsense as error:
        raise ConfigError(f"The policy in {folder} is damaged: {type(error).__name__}: {error}.") from error


NONSENSE: tuple[type[Exception], ...] = (
    *(ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError),
    *(ArithmeticError, RecursionError, MemoryError, RuntimeError),
)
"""Exceptions of Python, numpy, gymnasium and torch for invalid data."""


class _Damaged(ConfigError):
    """The two files of a policy contradict each other."""


class _Description(NamedTuple):
    policy: Any
    normalize_obs: bool
    spec: Spec
    env: EnvRequest | None


def _read_description(folder: Path) -> _Description:
    with (folder / DESCRIPTION).open("rb") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise _Damaged(f"{DESCRIPTION} is longer than {LONGEST:,} bytes.")
    description = json.loads(text.decode())
    if len(description) > MOST_KEYS:
        raise _Damaged(f"{DESCRIPTION} has {len(description):,} keys, more than {MOST_KEYS}.")
    if description["schema"] > SCHEMA:
        raise ConfigError(
            f"{folder} was written by pgzoo {description['pgzoo']}, in a newer form than this version reads. "
            "Upgrade: pip install -U pgzoo"
        )
    original, action_space = (spaces.from_json(description[key]) for key in ("observation_space", "action_space"))
    if gym.spaces.flatdim(original) > spaces.LARGEST:
        raise _Damaged(f"observations may have at most {spaces.LARGEST:,} numbers.")
    spec = make_spec(original, action_space, masked=bool(description.get("masked")))
    env = None
    if (where := description.get("env")) is not None:
        limit, kwargs = where["max_episode_steps"], where["kwargs"]
        if not (isinstance(where["id"], str) and isinstance(kwargs, dict) and (limit is None or type(limit) is int)):
            raise _Damaged("its environment is no id with keywords.")
        if len(kwargs) > MOST_KEYS:
            raise _Damaged(f"its environment has {len(kwargs):,} keywords, more than {MOST_KEYS}.")
        wrappers, frames = where.get("wrappers", []), where.get("frame_stack", 0)
        if not (isinstance(wrappers, list) and all(isinstance(name, str) for name in wrappers) and type(frames) is int):
            raise _Damaged("its wrappers are no list of names, or its frame_stack is no number.")
        env = EnvRequest(where["id"], kwargs, limit, 1, wrappers=tuple(wrappers), frame_stack=frames)
    return _Description(description["policy"], bool(description.get("normalize_obs")), spec, env)


def _make(description: _Description, catalog: PluginCatalog) -> tuple[Component, Spec, Policy]:
    from pgzoo.registry.components import resolve_component

    component, factory = resolve_component("policy", description.policy, catalog)
    return (
        component,
        description.spec,
        make_policy(factory, component.settings, description.spec, frozenset(), description.normalize_obs),
    )


class _LimitedGenerator(np.random.Generator):
    """Draws at most `left` numbers, so that sizes in a damaged file can't exhaust memory."""

    left = 0

    def _take(self, size: Any) -> None:
        self.left -= prod(size) if isinstance(size, tuple) else int(size or 1)
        if self.left < 0:
            raise _Damaged(f"{DESCRIPTION} describes a larger policy than the tensors in {TENSORS}.")

    def standard_normal(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._take(size)
        return super().standard_normal(size, *args, **kwargs)

    def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._take(size)
        return super().random(size, *args, **kwargs)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        self._take(size)
        return super().uniform(low, high, size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        self._take(size)
        return super().normal(loc, scale, size)


def _check_tensors(policy: Policy, file: Any) -> None:
    """Compare names, shapes and types of what a file declares with what the policy needs; loads nothing."""
    if len(file.keys()) > MOST_TENSORS:
        raise _Damaged(f"{TENSORS} has {len(file.keys()):,} tensors, more than {MOST_TENSORS:,}.")
    declared = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    found = {name: (DTYPES.get(part.get_dtype()), tuple(part.get_shape()[1:])) for name, part in declared.items()}
    rng = _LimitedGenerator(np.random.PCG64(0))
    rng.left = 2**20 + 4 * sum(prod(shape) for _, shape in found.values())
    try:
        with torch.device("meta"):  # tensors without memory
            needed = policy.init(rng) | getattr(policy, "buffers", dict)()
    except (RuntimeError, NotImplementedError):  # a plugin's policy that reads values of the tensors it creates
        needed = policy.init(rng) | getattr(policy, "buffers", dict)()
    expected = {name: (value.dtype, tuple(value.shape)) for name, value in needed.items()}
    members = {tuple(part.get_shape()[:1]) for part in declared.values()} - {(1,)}
    if expected != found or members:
        odd = sorted(set(expected.items()) ^ set(found.items()), key=str)
        shown = ", ".join(f"{name} {tuple(shape)}" for name, (_, shape) in odd[:4])
        raise _Damaged(f"expected tensors {_listed(expected)}; found {_listed(found)}; differences: {shown or 'rank'}.")


def _listed(tensors: Mapping[str, tuple[torch.dtype | None, tuple[int, ...]]]) -> str:
    return ", ".join(f"{k} {list(shape)} {str(of).removeprefix('torch.')}" for k, (of, shape) in tensors.items())


def _check_numbers(params: Params, policy: Policy) -> None:
    """Raise if parameters are NaN or infinite, because the policy would still act, and the error would go unnoticed."""
    buffers: Params = getattr(policy, "buffers", dict)()  # a plugin's buffers may contain infinities, such as masks
    for name, value in params.items():
        bad = value.isnan() if name in buffers else ~value.isfinite()
        if value.is_floating_point() and bool(bad.any()):
            raise _Damaged(f"the tensor {name} has numbers that aren't finite.")
