"""Populations of settings: which settings may differ between the members of one batch, and who its members are."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pgzoo.config import RunConfig

__all__ = ["SWEEP", "Member", "Setting", "Static", "grid", "read", "sweepable", "told"]

Setting = Mapping[str, float]
"""Overrides of the settings by dotted keys, such as `{"learning_rate": 3e-4, "estimator.lam": 0.9}`."""


SWEEP = "pgzoo.sweep"
"""The tag that bears what is a run's own in a sweep."""


class Static:
    """Marks a float setting that Python reads as one number for all members: `Annotated[float, Static, Field(...)]`.

    Every other float of an algorithm or an estimator may differ between members: a loss and an estimator find it as a
    tensor `[S, 1, 1]`, and code that works member by member in `ctx.plan.members[s].config.settings`.
    """


@dataclass(frozen=True)
class Member:
    """A seed with its own overrides of the settings; `config` is that of its run alone."""

    config: RunConfig
    overrides: Setting = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """What all its random streams come from."""
        return self.config.seeds[0]

    @property
    def label(self) -> str:
        """What its run is called after the algorithm: `s3`, `learning_rate=0.0003 s3`."""
        return f"{told(self.overrides)} s{self.seed}".strip()

    def run_key(self, group: str) -> str:
        """Return the key of its run, unlike every other member's."""
        own = "".join(f"{key}-{value}-".replace("+", "") for key, value in self.overrides.items())
        return f"{group}-{own}s{self.seed}"


def told(setting: Setting) -> str:
    """Return `learning_rate=0.0003 gamma=0.9`; empty where nothing is overridden."""
    return " ".join(f"{key}={value}" for key, value in setting.items())


def read(text: str) -> Setting:
    """Read what `told` wrote."""
    return {key: float(value) for key, _, value in (part.partition("=") for part in text.split())}


def grid(axes: Mapping[str, Sequence[float]]) -> Iterator[Setting]:
    """Yield every combination of the axes' values, the last axis fastest; without axes the one that changes nothing."""
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def sweepable(settings: type[BaseModel], estimator: type[BaseModel]) -> list[str]:
    """Return the keys that may differ between members: the floats that aren't `Static`, and gamma."""
    return [*_floats(settings), "gamma", *(f"estimator.{name}" for name in _floats(estimator))]


def _floats(model: type[BaseModel]) -> Iterator[str]:
    for name, one in model.model_fields.items():
        if _is_float(one.annotation) and Static not in one.metadata:
            yield name


def _is_float(annotation: Any) -> bool:
    """Whether a value is a float, or a float or None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set(typing.get_args(annotation)) == {float, types.NoneType}
    return annotation is float
