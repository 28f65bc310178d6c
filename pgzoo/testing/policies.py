"""What a policy keeps to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Text
from torch import Tensor

from pgzoo.config import Component, ComponentConfig
from pgzoo.envs.spec import make_spec
from pgzoo.errors import UnfitError
from pgzoo.export.bundle import load_policy, pack
from pgzoo.ops.acting import ApplyActor, actor_for, memory_size
from pgzoo.ops.draws import draw_noise
from pgzoo.ops.members import map_leaves, select
from pgzoo.ops.nets import ROW_BLOCK
from pgzoo.protocols import Policy
from pgzoo.registry.components import resolve_component
from pgzoo.testing.subject import Check, NotApplicable, Subject, called, generators_untouched, same_bits
from pgzoo.training.plan import make_policy
from pgzoo.types import ActorInputs, Array, Inputs, Output, Params, Spec

__all__ = ["CHECKS"]

OBSERVATIONS: Mapping[str, gym.Space[Any]] = {
    "a vector": Box(-1.0, 1.0, (3,)),
    "a matrix": Box(-1.0, 1.0, (2, 3)),
    "an image": Box(0, 255, (64, 64, 3), np.uint8),
    "a category": Discrete(5),
    "a category from -2": Discrete(5, start=np.int64(-2)),
}
ACTIONS: Mapping[str, gym.Space[Any]] = {
    "Discrete(2)": Discrete(2),
    "Discrete(4) from 1": Discrete(4, start=np.int64(1)),
    "MultiDiscrete([2, 3])": MultiDiscrete([2, 3]),
    "MultiBinary(3)": MultiBinary(3),
    "Box of one": Box(-1.0, 1.0, (1,)),
    "Box of 2 x 2": Box(-0.5, 2.0, (2, 2)),
}
MEMBERS, STEPS, ROWS = 3, 2, 4


@dataclass(frozen=True)
class Case:
    """A policy made for an environment, with members' parameters `[S, ...]` and what they see."""

    where: str
    policy: Policy
    component: Component
    spec: Spec
    params: Params

    def obs(self, *shape: int) -> Array:
        """Observations `[*shape, *O]`, always the same."""
        space = self.spec.observation_space
        space.seed(0)
        each = [space.sample() for _ in range(int(np.prod(shape)))]
        return np.array(each).reshape(*shape, *(space.shape or ()))

    def inputs(self, rows: int = ROWS, steps: int = 1, mask: Array | None = None) -> Inputs:
        """Inputs `[S, T, B, ...]`; episodes begin at the first step."""
        obs = torch.from_numpy(self.obs(MEMBERS, steps, rows))
        allowed = None if mask is None else torch.from_numpy(np.broadcast_to(mask, (*obs.shape[:3], len(mask))).copy())
        if not memory_size(self.policy):
            return Inputs(obs, allowed)
        starts = torch.zeros(MEMBERS, steps, rows, dtype=torch.bool)
        starts[:, 0] = True
        return Inputs(obs, allowed, torch.zeros(MEMBERS, rows, memory_size(self.policy)), starts)

    def seen(self, rows: int = ROWS, mask: Array | None = None) -> ActorInputs:
        """What an actor sees of the first of these steps."""
        inputs = self.inputs(rows, mask=mask)
        return ActorInputs(
            inputs.obs[:, 0].numpy(),
            None if inputs.action_mask is None else inputs.action_mask[:, 0].numpy(),
            None if inputs.memory is None else inputs.memory.numpy(),
            None if inputs.starts is None else inputs.starts[:, 0].numpy(),
        )

    def noise(self, rows: int = ROWS) -> Array:
        """Noise `[S, N, K]`, always the same."""
        return draw_noise(self.policy.noise, np.random.default_rng(1), (MEMBERS, rows, self.policy.noise_size))

    def act(self, seen: ActorInputs, noise: Array | None) -> Array:
        """Actions `[S, N, *A]`."""
        return actor_for(self.policy, self.params)(seen, noise)[0]

    def apply(self, inputs: Inputs) -> Output:
        """What the policy says of a batch."""
        with torch.no_grad():
            return self.policy.apply(self.params, inputs._replace(obs=inputs.obs.clone()))

    def log_prob(self, output: Output, actions: Array) -> Tensor:
        """Of actions `[S, T, B, *A]`."""
        with torch.no_grad():
            return output.dist.log_prob(torch.from_numpy(np.ascontiguousarray(actions)))


def spaces(subject: Subject) -> None:
    """It is made for one pair of spaces at least, and refuses others by UnfitError, which names it."""
    pairs = [(obs, action) for obs in OBSERVATIONS.values() for action in (*ACTIONS.values(), Text(3))]
    refusals = [_made(subject, make_spec(obs, action)) for obs, action in pairs]
    subject.expect(
        any(not isinstance(made, UnfitError) for made in refusals),
        "fits none of the spaces that it was tried on",
        f"These were observations of {', '.join(OBSERVATIONS)} and actions in {', '.join(ACTIONS)}.",
    )
    for made in refusals:
        subject.expect(
            not isinstance(made, UnfitError) or subject.component.name in str(made),
            f'refuses a space without saying who: "{made}"',
            "Begin the message with the policy's name.",
        )


def settings(subject: Subject) -> None:
    """Every setting is described."""
    model = subject.component.load_config()
    if model is None:
        raise NotApplicable("it has no settings")
    subject.expect_described(model, ComponentConfig)


def init(subject: Subject) -> None:
    """One member's parameters: finite tensors, the same for the same generator, and no other generator is moved."""
    for case in _cases(subject):
        with generators_untouched(subject, "in init"):
            one, again = (case.policy.init(np.random.default_rng(5)) for _ in range(2))
        for name, leaf in one.items():
            subject.expect(
                isinstance(leaf, Tensor) and torch.isfinite(leaf).all(),
                f"begins with a {name} that is no finite tensor",
                "Let init return torch tensors, without the member axis.",
            )
            subject.expect(
                same_bits(leaf, again[name]),
                f"begins with another {name} for the same generator",
                "Draw from the generator that init is given, and from nothing else.",
            )


def output(subject: Subject) -> None:
    """What it says of a batch `[S, T, B]` has this shape: log-probabilities, entropies, values; and the memory."""
    for case in (*_cases(subject), *_cases(subject, needs=frozenset({"value"}))):
        steps = STEPS if memory_size(case.policy) else 1
        inputs = case.inputs(steps=steps)
        said, shape = case.apply(inputs), (MEMBERS, steps, ROWS)
        actions = np.stack([case.act(case.seen(), case.noise())] * steps, 1)
        numbers = {"log-probability": case.log_prob(said, actions), "entropy": said.dist.entropy()}
        if "with a critic" in case.where:
            numbers["value"] = said.value
        for name, value in numbers.items():
            subject.expect(
                isinstance(value, Tensor) and tuple(value.shape) == shape and torch.isfinite(value).all(),
                f"gives no finite {name} of shape {list(shape)} for {case.where}",
                f"Leaves have the batch shape [S, T, B] first; got {list(getattr(value, 'shape', ()))}.",
            )


def pure(subject: Subject) -> None:
    """`apply` gives the same again, and leaves parameters and inputs as they were."""
    for case in _cases(subject):
        inputs, actions = case.inputs(), case.act(case.seen(), case.noise())[:, None]
        before = {name: leaf.clone() for name, leaf in case.params.items()}
        obs = inputs.obs.clone()
        with torch.no_grad():
            first, again = (case.log_prob(case.policy.apply(case.params, inputs), actions) for _ in range(2))
        changed = [name for name, leaf in case.params.items() if not same_bits(leaf, before[name])]
        changed += [] if same_bits(obs, inputs.obs) else ["the observations"]
        subject.expect(not changed, f"writes into {', '.join(changed)} in apply", "Work on copies.")
        subject.expect(same_bits(first, again), "says something else the second time", "Keep nothing between calls.")


def actor(subject: Subject) -> None:
    """What acts agrees with what learns: the same mode, and the same action for the same noise."""
    compared = 0
    for case in _cases(subject):
        seen, dist = case.seen(64), case.apply(case.inputs(64)).dist
        if not hasattr(case.policy, "actor") or not (hasattr(dist, "mode") and hasattr(dist, "draw")):
            continue
        compared += 1
        for what, noise in {"mode": None, "sample": case.noise(64)}.items():
            acted, learned = case.act(seen, noise), ApplyActor(case.policy, case.params)(seen, noise)[0]
            subject.expect(
                acted.shape == learned.shape and np.allclose(acted, learned, rtol=1e-4, atol=1e-5),
                f"has an actor whose {what} is not that of apply, for {case.where}",
                "Let both compute the same network; differences of rounding are welcome.",
            )
    if not compared:
        raise NotApplicable("it has no actor of its own, or its distributions no mode and draw to compare with")


def actions(subject: Subject) -> None:
    """What goes to the environment lies in its action space."""
    for case in _cases(subject):
        for noise in (None, case.noise(64)):
            sent = case.policy.to_env(case.act(case.seen(64), noise))
            strange = [action for member in sent for action in member if not case.spec.action_space.contains(action)]
            subject.expect(
                not strange, f"sends {strange[:1]} to {case.spec.action_space}", "Let to_env clip, shift and cast."
            )


def members(subject: Subject) -> None:
    """A member gets the same alone and among others, to the bit, when it acts and when it learns."""
    for case in _cases(subject):
        rows = ROW_BLOCK  # what the engine pads batches to
        inputs, seen, noise = case.inputs(rows), case.seen(), case.noise()
        taken = case.act(case.seen(rows), case.noise(rows))[:, None]
        one = Case(case.where, case.policy, case.component, case.spec, select(case.params, [1]))
        among = case.log_prob(case.apply(inputs), taken)[1:2].contiguous()
        alone = one.log_prob(one.apply(map_leaves(lambda leaf: leaf[1:2], inputs)), taken[1:2])
        acted = case.act(seen, noise)[1:2]
        acted_alone = one.act(map_leaves(lambda leaf: leaf[1:2], seen), noise[1:2])
        subject.expect(
            same_bits(among, alone) and np.array_equal(acted, acted_alone),
            f"is another alone than among {MEMBERS}, for {case.where}",
            "Use the layers of pgzoo.ops.nets, which compute each member as if it were alone.",
        )


def memory(subject: Subject) -> None:
    """The memory has `memory_size` numbers, is forgotten at a start, and in sequences is what it is step by step."""
    remembering = [case for case in _cases(subject) if memory_size(case.policy)]
    if not remembering:
        raise NotApplicable("it has no memory")
    for case in remembering:
        size, steps = memory_size(case.policy), 5
        inputs = case.inputs(steps=steps)
        assert inputs.starts is not None and inputs.memory is not None
        inputs.starts[:, 3, ::2] = True
        said = case.apply(inputs)
        subject.expect(
            said.memory is not None and tuple(said.memory.shape) == (MEMBERS, ROWS, size),
            f"remembers no {[MEMBERS, ROWS, size]}, as its memory_size says",
            "Return the memory after the last step, [S, B, M].",
        )
        other = case.apply(inputs._replace(memory=torch.full_like(inputs.memory, 3.0))).memory
        subject.expect(
            said.memory is not None and other is not None and same_bits(said.memory, other),
            "remembers what was before the start of an episode",
            "Where `starts` is True, begin from zeros.",
        )
        memory, taken = inputs.memory, []
        for t in range(steps):
            step = case.apply(Inputs(inputs.obs[:, t : t + 1], None, memory, inputs.starts[:, t : t + 1]))
            memory = memory if step.memory is None else step.memory
            taken.append(step.dist.entropy())
        same = said.memory is not None and torch.allclose(memory, said.memory, atol=1e-5)
        subject.expect(
            same and torch.allclose(torch.cat(taken, 1), said.dist.entropy(), atol=1e-5),
            "is another in a sequence than step by step",
            "Go through T in order, resetting where `starts` is True.",
        )


def buffers(subject: Subject) -> None:
    """What it keeps beside its parameters comes through `absorb` in shape, unmoved by rows that are not valid."""
    keeping = [case for case in _cases(subject) if hasattr(case.policy, "absorb") or hasattr(case.policy, "buffers")]
    if not keeping:
        raise NotApplicable("it has no buffers")
    for case in keeping:
        policy: Any = case.policy
        kept = {name: case.params[name] for name in policy.buffers()}
        if not hasattr(policy, "absorb"):
            continue
        before = {name: leaf.clone() for name, leaf in kept.items()}
        obs = torch.from_numpy(case.obs(MEMBERS, 6, ROWS))
        valid = torch.ones(MEMBERS, 6, ROWS, dtype=torch.bool)
        valid[:, 4:] = False
        after = policy.absorb(kept, obs, valid)
        subject.expect(
            {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()},
            "changes the names or shapes of its buffers",
            "absorb returns all of them, as it was given them.",
        )
        subject.expect(
            all(same_bits(leaf, before[name]) for name, leaf in kept.items()), "writes into its buffers", "Copy them."
        )
        littered = torch.where(valid.reshape(*valid.shape, *[1] * (obs.ndim - 3)), obs, obs.flip(1))
        again = policy.absorb(before, littered, valid)
        subject.expect(
            all(same_bits(leaf, again[name]) for name, leaf in after.items()),
            "takes in rows that are not valid",
            "Weigh rows by `valid`.",
        )


def masks(subject: Subject) -> None:
    """An action that is not allowed is never taken, has probability 0, and leaves everything finite."""
    maskable = [c for c in _cases(subject, masked=True) if not isinstance(c.spec.action_space, Box)]
    if not maskable:
        raise NotApplicable("it has no actions that could be forbidden")
    for case in maskable:
        mask, forbidden = _one_forbidden(case.spec.action_space)
        seen, rows = case.seen(64, mask), 64
        for noise in (None, case.noise(rows)):
            taken = case.act(seen, noise)
            subject.expect(
                not forbidden(taken).any(),
                f"takes a forbidden action, for {case.where}",
                "Give its logit -1e9: pgzoo.ops.families.",
            )
        said, allowed = case.apply(case.inputs(rows, mask=mask)), case.act(seen, case.noise(rows))[:, None]
        wrong = _forbidden_action(case.spec.action_space, allowed)
        subject.expect(
            torch.isfinite(case.log_prob(said, allowed)).all()
            and torch.isfinite(said.dist.entropy()).all()
            and (case.log_prob(said, wrong).exp() == 0).all(),
            f"learns as if a forbidden action could be taken, for {case.where}",
            "Give its logit -1e9, in apply as in the actor.",
        )


def saved(subject: Subject) -> None:
    """It comes back from its files as it was."""
    for case in _cases(subject):
        with (
            tempfile.TemporaryDirectory() as folder,
            subject.doing("to be saved and loaded", "See export.bundle."),
        ):
            for name, data in pack(case.component, case.spec, case.policy, case.params, 1).items():
                (Path(folder) / name).write_bytes(data)
            loaded = load_policy(folder, subject.catalog)
        obs = case.obs(ROWS)
        seen = ActorInputs(obs[None], None, *_first_memory(case, ROWS))
        one = Case(case.where, case.policy, case.component, case.spec, select(case.params, [1]))
        expected = case.policy.to_env(one.act(seen, None)[0])
        subject.expect(
            np.allclose(loaded.act(obs, deterministic=True), expected, rtol=1e-5, atol=1e-6),
            f"acts otherwise after it was saved and loaded, for {case.where}",
            "All that it acts by lies in its parameters, buffers and settings.",
        )


CHECKS: Mapping[str, Check] = called(
    (spaces, settings, init, output, pure, actor, actions, members, memory, buffers, masks, saved)
)


def _made(subject: Subject, spec: Spec, needs: frozenset[str] = frozenset()) -> Policy | UnfitError:
    component, factory = resolve_component("policy", subject.component.name, subject.catalog)
    with subject.doing(
        f"on {spec.observation_space} and {spec.action_space}", "Raise UnfitError for spaces that it can't serve."
    ):
        try:
            return make_policy(factory, component.settings, spec, needs, normalize_obs=False)
        except UnfitError as error:
            return error


def _cases(subject: Subject, *, masked: bool = False, needs: frozenset[str] = frozenset()) -> Iterator[Case]:
    """The policy on all spaces that it takes; an image is left to those that take nothing smaller."""
    component, _ = resolve_component("policy", subject.component.name, subject.catalog)
    flat = 0
    for seen, observation in sorted(OBSERVATIONS.items(), key=lambda item: item[0] == "an image"):
        if seen == "an image" and flat:
            continue
        for taken, action in ACTIONS.items():
            spec = make_spec(observation, action, masked=masked)
            policy = _made(subject, spec, needs)
            if isinstance(policy, UnfitError):
                continue
            flat += 1
            own: Params = getattr(policy, "buffers", dict)()
            each = [policy.init(np.random.default_rng(seed)) | own for seed in range(MEMBERS)]
            params = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            where = f"observations of {seen} and actions in {taken}" + (" with a critic" if needs else "")
            yield Case(where, policy, component, spec, params)


def _first_memory(case: Case, rows: int) -> tuple[Array | None, Any]:
    size = memory_size(case.policy)
    return (np.zeros((1, rows, size), np.float32), np.ones((1, rows), np.bool_)) if size else (None, None)


def _one_forbidden(space: gym.Space[Any]) -> tuple[Array, Any]:
    """A mask that forbids the first action (or bit 1 of the first), and what tells it in actions `[..., *A]`."""
    if isinstance(space, Discrete):
        return np.arange(space.n) != 0, lambda taken: taken == 0
    if isinstance(space, MultiDiscrete):
        return np.arange(space.nvec.sum()) != 0, lambda taken: taken[..., 0] == 0
    assert isinstance(space, MultiBinary)
    return np.arange(int(space.shape[0])) != 0, lambda taken: taken[..., 0] == 1


def _forbidden_action(space: gym.Space[Any], allowed: Array) -> Array:
    """The same actions but for what is forbidden."""
    wrong = allowed.copy()
    if isinstance(space, Discrete):
        wrong[...] = 0
    else:
        wrong[..., 0] = 1 if isinstance(space, MultiBinary) else 0
    return wrong
