"""Populations of settings: which settings may differ between the members of one batch."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import BaseModel

from pgzoo.config.settings import SearchConfig, Static

__all__ = ["Setting", "format_setting", "grid", "parse_setting", "sweepable"]

Setting = Mapping[str, float]
"""Overrides of the settings by dotted keys, such as `{"learning_rate": 3e-4, "estimator.lam": 0.9}`."""


def format_setting(setting: Setting) -> str:
    """Return `learning_rate=0.0003 gamma=0.9`; empty where nothing is overridden."""
    return " ".join(f"{key}={value}" for key, value in setting.items())


def parse_setting(text: str) -> Setting:
    """Return the setting that `format_setting` wrote as `text`."""
    return {key: float(value) for key, _, value in (part.partition("=") for part in text.split())}


def grid(axes: Mapping[str, Sequence[float]]) -> Iterator[Setting]:
    """Yield every combination of the axes' values, the last axis fastest; without axes the one that changes nothing."""
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def sweepable(settings: type[BaseModel], estimator: type[BaseModel]) -> list[str]:
    """Return the keys that may differ between members: the floats that aren't `Static`, and gamma.

    The estimator and gamma have no effect on a search.
    """
    if issubclass(settings, SearchConfig):
        return [*_floats(settings)]
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
