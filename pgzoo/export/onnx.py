"""A policy as an ONNX graph that needs nothing of pgzoo.

    obs [N, *O], (action_mask [N, K]), (state [N, M], starts [N])
        -> action [N, *A], parameters of its distribution, (state)

`action` is the mode, as the environment takes it; observations are as the policy sees them: raw, but flattened. A
Dict or Tuple with images isn't flattened: instead of `obs` there is an input `obs.NAME` for each image, and
`obs.vector` for all other entries. A normalizer is part of the graph. The batch N is dynamic.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from pgzoo.errors import UnfitError, UsageError
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.extras import install_hint, present
from pgzoo.ops.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    MultiCategorical,
    TanhGaussian,
)
from pgzoo.ops.entries import PackedSpace
from pgzoo.quiet import shared, without_warnings
from pgzoo.types import Array, Inputs

__all__ = ["NAME", "write_onnx"]

NAME = "policy.onnx"
BATCHES = 1, 3, 64, 300
"""Batch sizes that are checked: one, few, and more than any block of rows."""
OBS = "obs."
"""Prefix of the inputs for the entries of a Dict or Tuple with images."""
TINY = 1e-12
TIE = 1e-4
"""Logits closer than this may be ordered differently by onnxruntime, because of rounding."""


def write_onnx(policy: LoadedPolicy, file: Path) -> Path:
    """Write the graph after checking on random observations that onnxruntime and torch agree; return the file.

    Raises:
        UsageError: the extra isn't installed.
        UnfitError: the policy's distribution is none of pgzoo's, torch can't translate the policy, or what it
            translated gives different outputs.
    """
    if not present("onnx"):
        raise UsageError(f"ONNX needs the extra onnx. Install it: {install_hint('onnx')}")
    graph, rng = Graph(policy).eval(), np.random.default_rng(0)
    fed = _inputs_of(policy, _sample(policy, rng, 3), rng)
    rows = torch.export.Dim.DYNAMIC
    with _quiet():
        try:
            program = torch.export.export(
                graph,
                tuple(torch.from_numpy(x) for x in fed.values()),
                dynamic_shapes={"inputs": tuple({0: rows} for _ in fed)},
                strict=False,
                # layers choose the order of summation by the number of rows, but each order is right for any number
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            names = graph.outputs(program)
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[*fed], output_names=names)
        except (RuntimeError, TypeError, ValueError, torch.onnx.OnnxExporterError) as error:
            why = str(error).strip().splitlines()[0][:300]
            raise UnfitError(f'torch can\'t translate policy "{policy.component.name}" to ONNX: {why}') from error
    assert made is not None
    _name_batch(made.model)
    data = made.model_proto.SerializeToString()
    _check(policy, graph, data, rng)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


class Graph(nn.Module):
    """The module that is exported: one step of one seed, and its mode as `LoadedPolicy.act` returns it."""

    def __init__(self, policy: LoadedPolicy) -> None:
        super().__init__()
        self.policy, self.names = policy, input_names(policy)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs in the order of their names."""
        given = dict(zip(self.names, inputs, strict=True))
        mask, memory, starts = (given.get(name) for name in ("action_mask", "state", "starts"))
        obs: Any = given["obs"][None, None] if "obs" in given else None
        if obs is None:
            obs = {name.removeprefix(OBS): x[None, None] for name, x in given.items() if name.startswith(OBS)}
        output = self.policy.policy.apply(
            self.policy.params,
            Inputs(
                obs,
                None if mask is None else mask[None, None],
                None if memory is None else memory[None],
                None if starts is None else starts[None, None],
            ),
        )
        dist = output.dist.map(lambda leaf: leaf[0, 0])
        action = mode(dist, self.policy)
        after = () if output.memory is None else (output.memory[0],)
        return action, *parameters(dist).values(), *after

    def outputs(self, program: Any) -> list[str]:
        """The names of what `forward` returns."""
        with torch.no_grad():
            dist = self.policy.policy.apply(self.policy.params, _inputs(self.policy)).dist
        return ["action", *parameters(dist), *(["next_state"] if self.policy.memory else [])]


def input_names(policy: LoadedPolicy) -> list[str]:
    """Return the names of the graph's inputs."""
    masked = ["action_mask"] if policy.spec.masked else []
    return [*_observed(policy), *masked, *(["state", "starts"] if policy.memory else [])]


def _observed(policy: LoadedPolicy, obs: Array | None = None) -> dict[str, Any]:
    """Return the inputs of the graph for observations `[N, *O]` as the policy sees them, by name."""
    space = policy.spec.observation_space
    if not isinstance(space, PackedSpace):
        return {"obs": obs}
    packed = np.zeros((1, *(space.shape or ())), np.uint8) if obs is None else obs
    return {OBS + name: np.ascontiguousarray(part) for name, part in space.unpack(packed).items()}


def parameters(dist: Any) -> dict[str, Tensor]:
    """Return the parameters of a distribution, by name."""
    return {f.name: value for f in fields(dist) if isinstance(value := getattr(dist, f.name), Tensor)}


def mode(dist: Any, policy: LoadedPolicy) -> Tensor:
    """Return the modes of a distribution `[N]` as environment actions: `Distribution.mode` and `to_env` in torch."""
    space = policy.spec.action_space
    match dist, space:
        case Categorical(), gym.spaces.Discrete():
            return (dist.logits.argmax(-1) + int(space.start)).to(_dtype(space))
        case EpsilonGreedy(), gym.spaces.Discrete():
            return (dist.values.argmax(-1) + int(space.start)).to(_dtype(space))
        case MultiCategorical(), gym.spaces.MultiDiscrete():
            parts = torch.split(dist.logits, list(dist.sizes), -1)
            start = torch.from_numpy(space.start.astype(np.int64))
            return (torch.stack([part.argmax(-1) for part in parts], -1) + start).to(_dtype(space))
        case Bernoulli(), gym.spaces.MultiBinary():
            return (dist.logits > 0).to(_dtype(space))
        case Beta(), gym.spaces.Box():
            alpha, beta = dist.alpha.double() - 1, dist.beta.double() - 1
            share = torch.where(alpha + beta > 0, alpha / (alpha + beta).clamp(min=TINY), 0.5)
            return _shaped(_fill(share, space), space)
        case TanhGaussian(), gym.spaces.Box():
            return _shaped(_fill(0.5 + 0.5 * torch.tanh(dist.mean), space), space)
        case DiagonalGaussian(), gym.spaces.Box():
            if _rescales(policy, space):
                return _shaped(_fill(0.5 + 0.5 * dist.mean.clamp(-1, 1), space), space)
            return _shaped(dist.mean, space)
    raise UnfitError(
        f'ONNX: policy "{policy.component.name}" uses the distribution {type(dist).__name__}, which can\'t be '
        "exported; only pgzoo's distributions can."
    )


def _rescales(policy: LoadedPolicy, space: gym.spaces.Box) -> bool:
    """Return whether the policy's `to_env` maps [-1, 1] linearly onto the Box, instead of clipping actions to it.

    It is asked, because the policy of a plugin may do so without a setting.
    """
    dtype: Any = space.dtype
    if not (space.is_bounded() and np.issubdtype(dtype, np.floating)):
        return False
    low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
    share = np.linspace(0, 1, 5)[:, None]
    actions = np.broadcast_to(2 * share - 1, (len(share), low.size)).astype(np.float32)
    found = policy.policy.to_env(actions).reshape(actions.shape).astype(np.float64)
    rounding = max(1e-6, 2 * float(np.finfo(dtype).eps)) * np.maximum(np.abs(low), np.abs(high))
    return bool((np.abs(found - low * (1 - share) - high * share) <= rounding).all())


def _fill(share: Tensor, space: gym.spaces.Box) -> Tensor:
    low, high = (torch.from_numpy(bound.astype(np.float64).ravel()) for bound in (space.low, space.high))
    share = share.double()
    return low * (1 - share) + high * share


def _shaped(actions: Tensor, space: gym.spaces.Box) -> Tensor:
    low, high = (torch.from_numpy(bound).to(actions.dtype) for bound in (space.low, space.high))
    shaped = actions.reshape(-1, *space.shape)
    return torch.minimum(torch.maximum(shaped, low), high).to(_dtype(space))


def _dtype(space: gym.Space[Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype


def _sample(policy: LoadedPolicy, rng: np.random.Generator, count: int) -> Array:
    """Return random observations `[N, *O]`, as the policy sees them."""
    space = policy.spec.observation_space
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(int(space.start), int(space.start) + int(space.n), count).astype(space.dtype)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return rng.standard_normal((count, *space.shape)).clip(space.low, space.high).astype(space.dtype)
    space.seed(int(rng.integers(2**31)))
    return np.stack([space.sample() for _ in range(count)])


def _inputs_of(policy: LoadedPolicy, obs: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Return all inputs of the graph: `obs`, random action masks, and a memory that is reset in some rows."""
    count = len(obs)
    fed: dict[str, Array] = _observed(policy, obs)
    if policy.spec.masked:
        dist: Any = policy.policy.apply(policy.params, _inputs(policy)).dist
        choices = int(dist.logits.shape[-1])
        fed["action_mask"] = rng.random((count, choices)) < 0.5
        fed["action_mask"][:, 0] = True
        if isinstance(policy.spec.action_space, gym.spaces.MultiDiscrete):
            fed["action_mask"][:] = True
    if policy.memory:
        fed["state"] = rng.standard_normal((count, policy.memory)).astype(np.float32)
        fed["starts"] = rng.random(count) < 0.3
    return fed


def _inputs(policy: LoadedPolicy) -> Inputs:
    space = policy.spec.observation_space
    first = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
    obs = torch.from_numpy(np.full((1, 1, 1, *(space.shape or ())), first, space.dtype))
    if not policy.memory:
        return Inputs(obs)
    return Inputs(obs, None, torch.zeros(1, 1, policy.memory), torch.ones(1, 1, 1, dtype=torch.bool))


def _check(policy: LoadedPolicy, graph: Graph, data: bytes, rng: np.random.Generator) -> None:
    """Compare what onnxruntime makes of the graph with torch, and its actions with those that the policy takes."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for count in BATCHES:
        obs = _sample(policy, rng, count)
        fed = _inputs_of(policy, obs, rng)
        found = session.run(None, fed)
        with torch.no_grad():
            known = [leaf.numpy() for leaf in graph(*map(torch.from_numpy, fed.values()))]
        for output, a, b in zip(session.get_outputs()[1:], found[1:], known[1:], strict=True):
            if a.shape != b.shape or not _close(a, b):
                raise UnfitError(f"ONNX: onnxruntime and torch disagree on {output.name}; nothing was written.")
        memory = fed["state"] * ~fed["starts"][:, None] if policy.memory else None
        taken, _ = policy.step(obs, memory, action_mask=fed.get("action_mask"))
        clear = _without_ties(known[1], policy)
        a, b = found[0][clear], taken[clear]
        if a.shape != b.shape or a.dtype != b.dtype or not _close(a, b):
            raise UnfitError("ONNX: onnxruntime chooses other actions than the policy; nothing was written.")


def _close(found: Array, known: Array) -> bool:
    """Return whether both agree up to rounding, which is relative to the largest number: sums of large ones cancel."""
    largest = float(np.abs(known).max(initial=1.0))
    return np.allclose(found, known, rtol=1e-4, atol=1e-5 * largest)


def _without_ties(outputs: Array, policy: LoadedPolicy) -> Array:
    """Return which rows have no near tie between actions, `[N]`."""
    match space := policy.spec.action_space:
        case gym.spaces.Discrete():
            parts = [outputs]
        case gym.spaces.MultiDiscrete():
            parts = np.split(outputs, np.cumsum(space.nvec)[:-1], -1)
        case gym.spaces.MultiBinary():
            return np.asarray((np.abs(outputs) > TIE).all(-1))
        case _:
            return np.ones(len(outputs), np.bool_)
    best = [np.sort(part, -1) for part in parts if part.shape[-1] > 1]
    gaps = [part[:, -1] - part[:, -2] for part in best]
    return np.all([(gap > TIE) | (gap == 0) for gap in gaps], axis=0) if gaps else np.ones(len(outputs), np.bool_)


def _name_batch(model: Any) -> None:
    """Set the same name for the batch axis of all inputs and outputs."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and len(value.shape):
            value.shape[0] = "N"


@shared
@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings and output, which a user can't act on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with without_warnings(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
