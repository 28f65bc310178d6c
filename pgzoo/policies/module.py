"""A policy made from any `torch.nn.Module`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from pgzoo.config import ActionConfig
from pgzoo.errors import PluginError, UnfitError
from pgzoo.ops.heads import ActionHead, ObsEncoder
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec

__all__ = ["ModulePolicy", "module_policy"]

Build = Callable[[Any, int], nn.Module]
"""`build(inputs, outputs)`: a module that maps `[rows, *inputs]` to `[rows, outputs]`."""

Lift = Literal["loop", "vmap"]

NET, CRITIC = "net.", "critic.net."


def module_policy(
    build: Build, lift: Lift = "loop", *, name: str = ""
) -> Callable[[Any, Spec, frozenset[str]], ModulePolicy]:
    """Make a policy from a function that builds a module; the result is registered like any policy.

        registry.policy("my-net", pgzoo.module_policy(build, name="my-net"), config=ActionConfig)

    Args:
        build: `build(inputs, outputs) -> nn.Module`, with float32 parameters, that maps `[rows, *inputs]` to
            `[rows, outputs]`, each row independently. `inputs` is a number for vectors and Discrete observations (which
            are one-hot encoded), and a shape for any other Box, such as images; all are float32. It is called for every
            seed, with torch's generator seeded for it, and again with 1 output if there is a critic.
        lift: how the module is evaluated for several seeds. "loop" evaluates them one after the other; the results of a
            seed don't depend on the others. "vmap" evaluates them as one batch, which is faster for small modules and
            many seeds, but the last bits may depend on the other seeds.
        name: the name under which it is registered, for messages; by default they name the function.

    Register it with `config=ActionConfig` to offer the settings of distributions, such as `--policy.distribution`.
    """
    if lift not in ("loop", "vmap"):
        raise ValueError(f'lift is "loop" or "vmap", not {lift!r}')

    def factory(config: Any, spec: Spec, needs: frozenset[str]) -> ModulePolicy:
        return ModulePolicy(build, lift, config, spec, needs, name)

    factory.__doc__ = build.__doc__ or "A policy made from a torch module."
    return factory


class ModulePolicy:
    """A module from observations to the parameters of a distribution, called with the weights of each seed.

    Buffers, and parameters that don't require a gradient, are constants: they are saved, and the same for every seed.

    Raises:
        UnfitError: the module writes buffers or draws random numbers while it is evaluated, its parameters are not
            float32, or the algorithm needs a second value head (aux_value).
        PluginError: `build` returned something else than a module, or the module something else than a tensor.
    """

    def __init__(
        self, build: Build, lift: Lift, config: Any, spec: Spec, needs: frozenset[str], name: str = ""
    ) -> None:
        who = f'policy "{name}"' if name else f"the policy of {getattr(build, '__qualname__', type(build).__name__)}"
        if "aux_value" in needs:
            raise UnfitError(f"{who} has no second value head, which the algorithm needs (aux_value).")
        self.build, self.lift, self.critic = build, lift, "value" in needs
        space = spec.observation_space
        if not isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
            raise UnfitError(f"{who} doesn't fit the observation space {spec.original_space}. Use --policy cnn.")
        self.encoder = None
        if isinstance(space, gym.spaces.Discrete) or (isinstance(space, gym.spaces.Box) and len(space.shape) <= 1):
            self.encoder = ObsEncoder(space, who)
        self.inputs: int | tuple[int, ...] = self.encoder.size if self.encoder else (space.shape or ())
        action = config if isinstance(config, ActionConfig) else ActionConfig()
        self.head = ActionHead(spec, action, needs, who)
        self.noise, self.noise_size, self.to_env = self.head.noise, self.head.noise_size, self.head.to_env
        self.without_effect = self.head.without_effect
        self.modules = {NET: self._built(np.random.default_rng(0), self.head.outputs)}
        if self.critic:
            self.modules[CRITIC] = self._built(np.random.default_rng(1), 1)
        for prefix, module in self.modules.items():
            _check_pure(module, self._sample(), 1 if prefix == CRITIC else self.head.outputs, who)

    def init(self, rng: np.random.Generator) -> Params:
        """Return one member's parameters, as `build` initializes them; the state of torch's generator is restored."""
        params = _learned(self._built(rng, self.head.outputs), NET) | self.head.init()
        return params | (_learned(self._built(rng, 1), CRITIC) if self.critic else {})

    def buffers(self) -> Params:
        """Return the module's buffers and frozen parameters."""
        return {
            name: value for prefix, module in self.modules.items() for name, value in _constants(module, prefix).items()
        }

    def apply(self, params: Params, inputs: Inputs) -> Output:
        """Return the distribution and values for a batch: obs `[S, T, B, *O]`."""
        obs, shape = inputs.obs, inputs.obs.shape[:3]
        x = self.encoder.encode(obs) if self.encoder else obs.float()
        x = x.flatten(1, 2)
        outputs = self._run(NET, params, x).reshape(*shape, self.head.outputs)
        return Output(
            dist=self.head.distribution(outputs, params, inputs.action_mask),
            value=self._run(CRITIC, params, x).reshape(shape) if self.critic else None,
        )

    def actor(self, params: Params) -> ModuleActor:
        """Return an actor on the same module, without gradients."""
        return ModuleActor(self, params)

    def run(self, params: Params, x: Tensor) -> Tensor:
        """Evaluate the module: `x [S, rows, *inputs] -> [S, rows, outputs]`."""
        return self._run(NET, params, x)

    def _run(self, prefix: str, params: Params, x: Tensor) -> Tensor:
        module = self.modules[prefix]
        tensors = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}

        def call(one: Params, rows: Tensor) -> Tensor:
            found: Tensor = functional_call(module, one, (rows,))
            return found

        if self.lift == "vmap":
            together: Tensor = vmap(call)(tensors, x)
            return together
        each = []
        for member, rows in enumerate(x):
            # copy to aligned memory, because kernels choose the order of summation by alignment
            one = {name: value[member].clone() for name, value in tensors.items()}
            blocks = rows.split(ROW_BLOCK) if rows.shape[0] % ROW_BLOCK == 0 else (rows,)  # len() fails in tracing
            each.append(torch.cat([call(one, block.clone()) for block in blocks]))
        return torch.stack(each)

    def _built(self, rng: np.random.Generator, outputs: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            module: Any = self.build(self.inputs, outputs)
        if not isinstance(module, nn.Module):
            name = getattr(self.build, "__qualname__", type(self.build).__qualname__)
            raise PluginError(f"{name} returned {module!r:.60}; it must return a torch.nn.Module.")
        return module

    def _sample(self) -> Tensor:
        shape = (self.inputs,) if isinstance(self.inputs, int) else self.inputs
        return torch.linspace(-1, 1, 2 * int(np.prod(shape))).reshape(2, *shape)


class ModuleActor:
    """Acts by the module's forward pass, without gradients."""

    def __init__(self, policy: ModulePolicy, params: Params) -> None:
        self.policy, self.log_std = policy, policy.head.log_std_of(params)
        self.params = {name: value for name, value in params.items() if name.startswith(NET)}

    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        """Return actions `[S, N, *A]` for `obs [S, N, *O]` and `noise [S, N, K]` or None."""
        policy = self.policy
        obs = policy.encoder.encode_numpy(seen.obs) if policy.encoder else seen.obs.astype(np.float32)
        with torch.no_grad():
            outputs = policy.run(self.params, torch.from_numpy(obs)).numpy()
        return policy.head.choose(outputs, self.log_std, seen.action_mask, noise), None


def _learned(module: nn.Module, prefix: str) -> Params:
    return {prefix + name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def _constants(module: nn.Module, prefix: str) -> Params:
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    return {prefix + name: value.detach().clone() for name, value in (frozen | dict(module.named_buffers())).items()}


def _check_pure(module: nn.Module, rows: Tensor, outputs: int, who: str) -> None:
    """Evaluate the module once, in training mode, and raise UnfitError for side effects or a wrong output."""
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise UnfitError(f"{who}: the parameter {name} is {parameter.dtype}; all of them must be float32.")
    drew: list[str] = []

    def before(part: nn.Module, _: Any) -> None:
        part.__dict__["_pgzoo_generator"] = torch.get_rng_state()

    def after(part: nn.Module, *_: Any) -> None:
        if not torch.equal(part.__dict__.pop("_pgzoo_generator"), torch.get_rng_state()):
            drew.append(names[part])

    names = {part: f"{type(part).__name__} ({name or 'the module itself'})" for name, part in module.named_modules()}
    hooks = [
        hook for part in names for hook in (part.register_forward_pre_hook(before), part.register_forward_hook(after))
    ]
    kept = {name: value.clone() for name, value in module.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = module.train()(rows)
    finally:
        for hook in hooks:
            hook.remove()
    if drew:  # the innermost part comes first
        raise UnfitError(
            f"{who}: {drew[0]} draws random numbers while it is evaluated, so acting and learning would use different "
            "policies. Remove it."
        )
    for name, value in module.named_buffers():
        if not torch.equal(kept[name], value):
            part = module.get_submodule(name.rpartition(".")[0])
            raise UnfitError(
                f"{who}: {names[part]} writes its buffer {name.rpartition('.')[2]} while it is evaluated. A policy "
                "must be a pure function of its parameters: use a layer without running statistics, such as LayerNorm; "
                "--normalize-obs standardizes observations."
            )
    if not isinstance(found, Tensor):
        kind = type(found).__name__
        got = (
            f"a {kind} of {len(found)}" if isinstance(found, tuple | list) else "None" if found is None else f"a {kind}"
        )
        raise PluginError(
            f"{type(module).__name__} returned {got} from forward; it must return one tensor [rows, {outputs}]."
        )
    if found.shape != (len(rows), outputs):
        raise UnfitError(f"{who}: expected {outputs} outputs; {len(rows)} rows gave shape {list(found.shape)}.")
