"""Shared code of the conformance checks. A check returns if it passes, else raises `CheckFailed` or `NotApplicable`."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgzoo.errors import PgzooError, raised_at
from pgzoo.registry import Entry, PluginCatalog, PluginInfo
from pgzoo.registry.catalog import kind_label

__all__ = [
    "Check",
    "CheckFailed",
    "CheckTarget",
    "Consequence",
    "KnownException",
    "NotApplicable",
    "bitwise_equal",
    "checks_by_name",
    "expect_untouched",
    "generator_states",
    "generators_untouched",
]


class CheckFailed(AssertionError):
    """A component fails a conformance check. The message names the component, the problem, and what to do next."""


class NotApplicable(Exception):
    """A check doesn't apply, because the component doesn't have, or doesn't claim to have, the checked feature."""


class KnownException(NotApplicable):
    """A check fails, and the component declares this exception with a reason; see `checks.ComponentChecks`."""


class Consequence(NotApplicable):
    """A check fails, probably only because another check fails, which the message names."""


@dataclass(frozen=True)
class CheckTarget:
    """The checked component (a plugin if `entry` is None), and the catalog with the components that it needs.

    `remembered` holds what several checks use and is expensive to make.
    """

    plugin: PluginInfo
    catalog: PluginCatalog
    entry: Entry | None = None
    remembered: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def component(self) -> Entry:
        """The component that is checked. Only for the checks of components."""
        assert self.entry is not None
        return self.entry

    @property
    def who(self) -> str:
        """The kind, name and plugin, for the start of messages."""
        if self.entry is None:
            return f"Plugin {self.plugin}"
        return f'{kind_label(self.entry.kind).capitalize()} "{self.entry.name}" of {self.entry.owner}'

    def expect(self, condition: object, what: str, advice: str) -> None:
        """Raise CheckFailed unless the condition holds."""
        if not condition:
            raise CheckFailed(f"{self.who} {what}. {advice}")

    @contextmanager
    def errors_fail_check(self, what: str, advice: str) -> Iterator[None]:
        """Turn any exception into CheckFailed "NAME fails WHAT: error", for example with WHAT "to be closed"."""
        try:
            yield
        except (CheckFailed, NotApplicable):
            raise
        except PgzooError as error:
            raise CheckFailed(f"{self.who} fails {what}: {str(error).removesuffix('.')}. {advice}") from error
        except Exception as error:
            raise CheckFailed(f"{self.who} fails {what}: {_described(error)}. {advice}") from error

    def expect_described(self, model: Any, base: type) -> None:
        """Expect a settings model to derive from pgzoo's `base` and every field to have a description."""
        fine = inspect.isclass(model) and issubclass(model, base)
        self.expect(
            fine,
            f"has settings that don't derive from {base.__name__}",
            f"Derive the model from pgzoo.{base.__name__}.",
        )
        silent = [name for name, field in model.model_fields.items() if not field.description]
        self.expect(
            not silent,
            f"has settings without a description: {', '.join(silent)}",
            'It becomes the help text: Annotated[float, Field(description="...")].',
        )


def _described(error: Exception) -> str:
    """Return an exception with its type, and the line of the plugin's code that raised it."""
    return f"{type(error).__name__}: {error}".removesuffix(": ").removesuffix(".") + raised_at(error)


Check = Callable[[CheckTarget], None]
"""A conformance check. It is named after its function, with hyphens for underscores."""


def checks_by_name(checks: tuple[Check, ...]) -> Mapping[str, Check]:
    """Return the checks by name."""
    return {check.__name__.replace("_", "-"): check for check in checks}


@contextmanager
def generators_untouched(target: CheckTarget, what: str) -> Iterator[None]:
    """Expect that the global random generators of Python, numpy and torch have the same state afterwards."""
    before = generator_states()
    yield
    expect_untouched(target, [name for name, state in generator_states().items() if state != before[name]], what)


def generator_states() -> dict[str, Any]:
    """Return the states of the global random generators of Python, numpy and torch, by name."""
    numpys: Any = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (numpys[0], numpys[1].tobytes(), *numpys[2:]),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def expect_untouched(target: CheckTarget, moved: list[str], what: str) -> None:
    """Expect that no global random generator was used."""
    target.expect(
        not moved,
        f"draws from the global generator of {', '.join(moved)} {what}",
        "With a global generator, seeds influence each other, and a resumed run differs. "
        "Draw from the generator that is passed in, or from ctx.rng(...).",
    )


def bitwise_equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape, type and bits; NaN equals NaN, and -0.0 equals 0.0."""
    return one.shape == other.shape and one.dtype == other.dtype and _bits(one) == _bits(other)


def _bits(x: Tensor) -> bytes:
    return (x + 0.0 if x.is_floating_point() else x).detach().numpy().tobytes()  # -0.0 + 0.0 is 0.0
