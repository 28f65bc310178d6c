"""Every check of a policy can fail: for each there is a policy with one fault."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from failing_checks import ALL_CHECKS, assert_fails, failing, named_by_faulty_plugins
from gymnasium.spaces import Box
from torch import Tensor

from pgzoo.config import ComponentConfig
from pgzoo.errors import UnfitError
from pgzoo.ops.distributions import Categorical, DiagonalGaussian
from pgzoo.policies.mlp import MLP, MLPActor, MLPConfig
from pgzoo.policies.module import module_policy
from pgzoo.testing.checks import CHECKS
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec


class Plain(MLP):
    """The built-in `mlp`, under another name."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        try:
            super().__init__(MLPConfig(hidden=(5,)), spec, needs)
        except UnfitError as error:
            raise UnfitError(f'policy "broken": {error}') from error


class Grudging(Plain):
    """Raises ValueError instead of UnfitError for spaces that it doesn't support."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        try:
            super().__init__(config, spec, needs)
        except UnfitError as error:
            raise ValueError("no") from error


def forgets_return(inputs: int, outputs: int) -> Any:
    torch.nn.Linear(inputs, outputs)


def raises_when_built(inputs: int, outputs: int) -> Any:
    raise KeyError("boom")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            module_policy(forgets_return),
            "can't be created: forgets_return returned None; it must return a torch.nn.Module.",
        ),
        (
            forgets_return,
            "can't be created: forgets_return takes (inputs, outputs), but pgzoo calls it with (config, spec",
        ),
        (module_policy(raises_when_built), ": KeyError: 'boom' ("),
    ],
)
def test_a_policy_that_cannot_be_created_fails_with_its_cause(target: Any, message: str) -> None:
    (failed,) = failing("policy", target, "spaces").values()
    assert message in failed
    assert ("UnfitError" in failed) == ("boom" in failed)  # a wrong function fits no spaces


class Lucky(Plain):
    """Has different initial parameters each time."""

    def init(self, rng: np.random.Generator) -> Params:
        return super().init(np.random.default_rng())


class Gambler(Plain):
    """Draws from the global generator of `random` in `init`."""

    def init(self, rng: np.random.Generator) -> Params:
        random.random()
        return super().init(rng)


class Worthless(Plain):
    """Returns values of the wrong shape."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        return said if said.value is None else said._replace(value=said.value.unsqueeze(-1))


class Scribbling(Plain):
    """Overwrites its observations."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        if inputs.obs.dtype == torch.float32:
            inputs.obs.zero_()
        return said


class OtherActor(MLPActor):
    def __call__(self, seen: ActorInputs, noise: Array | None) -> tuple[Array, None]:
        obs = seen.obs if self.policy.encoder.categories else seen.obs * np.float32(-3)
        return super().__call__(seen._replace(obs=obs), noise)


class TwoFaced(Plain):
    """Has an actor that differs from `apply`."""

    def actor(self, params: Params) -> MLPActor:
        return OtherActor(self, params)


class Unclipped(Plain):
    """Sends sampled actions to the environment without clipping them."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        super().__init__(config, spec, needs)
        if isinstance(spec.action_space, Box):
            self.to_env = lambda actions: actions.astype(np.float32)


class Herd(Plain):
    """Has outputs that depend on the number of members."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        common = {k: v * (1 + 1e-6 * len(v)) if k == "weight.0" else v for k, v in params.items()}
        return super().apply(common, inputs)


class Echo(Plain):
    """Counts steps in its memory, and adds the count to the observations."""

    memory_size = 1

    def apply(self, params: Params, inputs: Inputs) -> Output:
        assert inputs.memory is not None and inputs.starts is not None
        memory, seen = inputs.memory, []
        for t in range(inputs.obs.shape[1]):
            memory = self.forget(memory, inputs.starts[:, t, :, None])
            obs = inputs.obs[:, t]
            seen.append(
                obs if self.encoder.categories else obs + memory.reshape(*memory.shape[:2], *[1] * (obs.ndim - 2))
            )
            memory = memory + 1
        return super().apply(params, inputs._replace(obs=torch.stack(seen, 1)))._replace(memory=memory)

    def forget(self, memory: Tensor, starts: Tensor) -> Tensor:
        return torch.where(starts, 0.0, memory)

    actor: Any = property()  # acts through apply


class Elephant(Echo):
    """Doesn't reset its memory where an episode starts."""

    def forget(self, memory: Tensor, starts: Tensor) -> Tensor:
        return memory


class Tossing(Plain):
    """Draws a number from torch's global generator, and ignores it."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        torch.rand(1)
        return super().apply(params, inputs)


class Clamped(DiagonalGaussian):
    def log_prob(self, actions: Tensor) -> Tensor:
        return super().log_prob(actions.clamp(-0.5, 1.0))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return Clamped(fn(self.mean), fn(self.log_std))


class Clamping(Plain):
    """Returns the log-probability of the clipped action, not of the sampled one."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        dist: Any = said.dist
        return said._replace(dist=Clamped(dist.mean, dist.log_std)) if isinstance(dist, DiagonalGaussian) else said


class Raw(Categorical):
    """Has logits for log-probabilities."""

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return type(self)(fn(self.logits))


class Negated(Raw):
    """Has an entropy of the wrong sign."""

    log_prob = Categorical.log_prob

    def entropy(self) -> Tensor:
        return -super().entropy()


class Cold(Raw):
    """Draws actions of another temperature."""

    log_prob = Categorical.log_prob

    def draw(self, noise: Array) -> Array:
        return Categorical(3 * self.logits).draw(noise)


class Reversed(Raw):
    """Has a KL divergence in the other direction."""

    log_prob = Categorical.log_prob

    def kl(self, other: Categorical) -> Tensor:
        return Categorical(other.logits).kl(Categorical(self.logits))


class Unsummed(Raw):
    """Has a KL divergence for each action."""

    log_prob = Categorical.log_prob

    def kl(self, other: Categorical) -> Tensor:
        return self._log_probs.exp() * (self._log_probs - other._log_probs)


class Undivergent(Raw):
    """Has no KL divergence."""

    log_prob, kl = Categorical.log_prob, None


class Unmapped(Raw):
    """Has no map."""

    log_prob, map = Categorical.log_prob, None


class Unmoved(Raw):
    """Returns itself from map."""

    log_prob = Categorical.log_prob

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return self


class HalfMapped(DiagonalGaussian):
    """Leaves its standard deviation out of map."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return HalfMapped(fn(self.mean), self.log_std)


class Attached(Raw):
    """Keeps the gradient of its logits in map."""

    log_prob = Categorical.log_prob

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return Attached(fn(self.logits) + 0 * self.logits[:, :, : fn(self.logits).shape[2]])


class NegatedGaussian(DiagonalGaussian):
    """Has an entropy of the wrong sign."""

    def entropy(self) -> Tensor:
        return -super().entropy()

    def map(self, fn: Callable[[Tensor], Tensor]) -> Any:
        return type(self)(fn(self.mean), fn(self.log_std))


class WideGaussian(NegatedGaussian):
    """Draws actions with twice the standard deviation."""

    entropy = DiagonalGaussian.entropy

    def draw(self, noise: Array) -> Array:
        return super().draw(2 * noise)


class NegativeDivergence(NegatedGaussian):
    """Has a negative KL divergence."""

    entropy = DiagonalGaussian.entropy

    def kl(self, other: DiagonalGaussian) -> Tensor:
        return -super().kl(other)


def having(kind: Any) -> type:
    """Return a policy with distributions of this kind in place of those from which it is derived."""

    class Having(Plain):
        actor: Any = property()  # acts through apply

        def apply(self, params: Params, inputs: Inputs) -> Output:
            said = super().apply(params, inputs)
            dist: Any = said.dist
            if isinstance(dist, Categorical) and issubclass(kind, Categorical):
                return said._replace(dist=kind(dist.logits))
            if isinstance(dist, DiagonalGaussian) and issubclass(kind, DiagonalGaussian):
                return said._replace(dist=kind(dist.mean, dist.log_std))
            return said

    Having.actor = None
    Having.__name__ = kind.__name__
    return Having


class Backwards(Plain):
    """Has another network in its `row_policy`."""

    def row_policy(self, params: Params) -> Any:
        made = super().row_policy(params)
        return None if made is None else made._replace(weights=made.weights[:, ::-1])


class Standardizing(Plain):
    """Divides observations by 3; its `row_policy` does that with `moments`."""

    actor: Any = None

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply(params, inputs if self.encoder.categories else inputs._replace(obs=inputs.obs / 3))

    def row_policy(self, params: Params) -> Any:
        made = super().row_policy(params)
        if made is None or self.encoder.categories:
            return made
        shape = 1, len(made.weights), self.encoder.size
        return made._replace(moments=np.concatenate([np.zeros(shape), np.full(shape, 3)]).astype(np.float32))


def test_the_moments_of_a_row_policy_are_used() -> None:
    assert failing("policy", Standardizing) == {}


class Overreaching(Plain):
    """Sends other actions from its `row_policy` than `to_env`."""

    def row_policy(self, params: Params) -> Any:
        made = super().row_policy(params)
        return None if made is None else made._replace(choose=lambda *given: made.choose(*given) + 1)


def ignoring(need: str) -> type:
    """Return a policy whose factory neither provides nor refuses a need."""

    class Ignoring(Plain):
        def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
            super().__init__(config, spec, needs - {need})

    return Ignoring


class Misnaming(Plain):
    """Has a critic whose parameters don't start with `critic.`."""

    def init(self, rng: np.random.Generator) -> Params:
        return {name.replace("critic.", "value."): leaf for name, leaf in super().init(rng).items()}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply({name.replace("value.", "critic."): leaf for name, leaf in params.items()}, inputs)

    def row_policy(self, params: Params) -> None:
        return None


class Parasitic(Plain):
    """Has a critic without parameters."""

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        super().__init__(config, spec, needs - {"value"})

    def apply(self, params: Params, inputs: Inputs) -> Output:
        said = super().apply(params, inputs)
        return said._replace(value=said.dist.entropy())


class Keeping(Plain):
    """Counts the valid rows in a buffer."""

    def buffers(self) -> Params:
        return {"count": torch.zeros(())}

    def absorb(self, buffers: Params, obs: Tensor, valid: Tensor) -> Params:
        return {"count": buffers["count"] + valid.sum((-2, -1))}


class Indiscriminate(Keeping):
    """Updates its buffer with rows that are not valid, too."""

    def absorb(self, buffers: Params, obs: Tensor, valid: Tensor) -> Params:
        times = torch.arange(obs.shape[1]).reshape(-1, *[1] * (obs.ndim - 2))
        return {"count": buffers["count"] + (obs.float() * times).flatten(1).sum(1)}


class Unbridled(Plain):
    """Ignores action masks."""

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply(params, inputs._replace(action_mask=None))

    def actor(self, params: Params) -> Any:
        free = super().actor(params)
        return lambda seen, noise: free(seen._replace(action_mask=None), noise)


class Amnesiac(Plain):
    """Has outputs that depend on a number that isn't among its parameters."""

    made = 0

    def __init__(self, config: Any, spec: Spec, needs: frozenset[str]) -> None:
        super().__init__(config, spec, needs)
        type(self).made += 1
        self.tilt = torch.linspace(-1, 1, self.head.outputs) * (-1) ** type(self).made

    def tilted(self, params: Params) -> Params:
        return {k: v + self.tilt if k == "bias.1" else v for k, v in params.items()}

    def apply(self, params: Params, inputs: Inputs) -> Output:
        return super().apply(self.tilted(params), inputs)

    def actor(self, params: Params) -> MLPActor:
        return super().actor(self.tilted(params))

    def row_policy(self, params: Params) -> Any:
        return super().row_policy(self.tilted(params))


Echo.actor = None
Tossing.actor = None
Clamping.actor = None
POLICIES: list[tuple[type, dict[str, Any], str, str]] = [
    (Grudging, {}, "spaces", "Correct it, or raise UnfitError"),
    (Plain, {"config": type("Silent", (ComponentConfig,), {"__annotations__": {"x": int}, "x": 1})}, "settings", ": x"),
    (Lucky, {}, "init", "returns from init a different weight.0"),
    (Gambler, {}, "init", "global generator of random in init"),
    (Worthless, {}, "output", "a finite value of shape [3, 1, 4]"),
    (Misnaming, {}, "critic", "names parameters of its critic value.bias.0"),
    (Parasitic, {}, "critic", "has a critic without parameters of its own"),
    (ignoring("aux_value"), {}, "needs", 'neither provides nor refuses the need "aux_value"'),
    (ignoring("shift"), {}, "needs", "has no attribute 'shift'. Let the factory raise UnfitError"),
    (ignoring("action_values"), {}, "needs", "has no attribute 'value_of'. Let the factory raise UnfitError"),
    (having(Raw), {}, "log-probabilities", "over all actions, for observations of a vector and actions in Discrete(2)"),
    (having(Negated), {}, "entropy", "for probabilities whose entropy is"),
    (having(NegatedGaussian), {}, "entropy", "but the mean of -log_prob over 600 draws is"),
    (having(WideGaussian), {}, "entropy", "but the mean of -log_prob over 600 draws is"),
    (having(Cold), {}, "draws", "draws an action in"),
    (having(Reversed), {}, "kl", "where Σ p log(p/q) is"),
    (having(Unsummed), {}, "kl", "returns a kl of shape [3, 1, 4, 2], expected [3, 1, 4]"),
    (having(Undivergent), {}, "kl", "has distributions without a method kl"),
    (having(NegativeDivergence), {}, "kl", "returns a negative kl"),
    (having(Unmapped), {}, "mapped", "has distributions without map"),
    (having(Unmoved), {}, "mapped", "has distributions whose map returns another distribution"),
    (having(Attached), {}, "mapped", "has distributions that keep their gradient after map"),
    (having(HalfMapped), {}, "mapped", "fails in dist.map, for observations of a vector and actions in Box"),
    (Backwards, {}, "row-policy", "has a row_policy whose mode differs from that of apply"),
    (Overreaching, {}, "row-policy", "has a row_policy that sends other actions to the environment than to_env"),
    (Scribbling, {}, "pure", "writes into the observations in apply"),
    (TwoFaced, {}, "actor", "has an actor whose"),
    (Unclipped, {}, "actions", "to Box"),
    (Tossing, {}, "generators", "draws from the global generator of torch"),
    (Clamping, {}, "sampled-actions", "returns the log-probability of the clipped action"),
    (Herd, {}, "members", "computes different numbers for a seed alone and among 3"),
    (Elephant, {}, "memory", "keeps its memory across the start"),
    (Indiscriminate, {}, "buffers", "updates its buffers with rows that are not valid"),
    (Unbridled, {}, "masks", "takes a masked action"),
    (Amnesiac, {}, "saved", "acts differently after it was saved"),
]


@pytest.mark.parametrize("target", [Plain, Echo, Keeping])
def test_a_correct_policy_passes_all_checks(target: type) -> None:
    assert failing("policy", target) == {}


@ALL_CHECKS
@pytest.mark.parametrize(("target", "facts", "check", "said"), POLICIES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_policy_with_one_fault_fails_only_the_check_for_it(
    all_checks: bool, target: type, facts: dict[str, Any], check: str, said: str
) -> None:
    only = None if all_checks else check
    assert_fails(failing("policy", target, only, **facts), check, said, 'Policy "broken"')


def test_every_check_of_a_policy_has_one_that_fails_it() -> None:
    assert {check for _, _, check, _ in POLICIES} | named_by_faulty_plugins("policy") == set(CHECKS["policy"])
