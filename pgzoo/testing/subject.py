"""What is checked, and how a check ends: in silence, with `CheckFailed`, or with `NotApplicable`."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgzoo.errors import PgzooError
from pgzoo.registry import Entry, PluginCatalog, PluginInfo

__all__ = ["Check", "CheckFailed", "NotApplicable", "Subject", "called", "generators_untouched", "same_bits"]


class CheckFailed(AssertionError):
    """A component doesn't keep to its contract. The message says what, who, and what to do next."""


class NotApplicable(Exception):
    """A check has nothing to look at: the component doesn't have, or doesn't claim, what it is about."""


@dataclass(frozen=True)
class Subject:
    """A component (or, without `entry`, a plugin) under check, in the catalog that gives what else it takes."""

    plugin: PluginInfo
    catalog: PluginCatalog
    entry: Entry | None = None

    @property
    def component(self) -> Entry:
        """The component; for the checks of one."""
        assert self.entry is not None
        return self.entry

    @property
    def who(self) -> str:
        """Name and origin, as messages begin."""
        if self.entry is None:
            return f"Plugin {self.plugin}"
        kind = self.entry.kind.replace("_", " ")
        return f'{kind.capitalize()} "{self.entry.name}" of plugin {self.plugin}'

    def expect(self, condition: object, what: str, advice: str) -> None:
        """Raise CheckFailed unless the condition holds."""
        if not condition:
            raise CheckFailed(f"{self.who} {what}. {advice}")

    @contextmanager
    def doing(self, what: str, advice: str) -> Iterator[None]:
        """Turn any exception into CheckFailed: the component raised while it did something."""
        try:
            yield
        except (CheckFailed, NotApplicable):
            raise
        except PgzooError as error:
            raise CheckFailed(f"{self.who} fails {what}: {error} {advice}") from error
        except Exception as error:
            raise CheckFailed(f"{self.who} fails {what}: {type(error).__name__}: {error}. {advice}") from error

    def expect_described(self, model: Any, base: type) -> None:
        """Expect a model of settings to derive from pgzoo's base, with a description for every field."""
        fine = inspect.isclass(model) and issubclass(model, base)
        self.expect(fine, f"has settings that are no {base.__name__}", f"Derive the model from pgzoo.{base.__name__}.")
        silent = [name for name, field in model.model_fields.items() if not field.description]
        self.expect(
            not silent,
            f"has settings without a description: {', '.join(silent)}",
            'It becomes the help text: Annotated[float, Field(description="...")].',
        )


Check = Callable[[Subject], None]
"""One clause of a contract. Its name, with hyphens, is that of the function."""


def called(checks: tuple[Check, ...]) -> Mapping[str, Check]:
    """Checks by name."""
    return {check.__name__.replace("_", "-"): check for check in checks}


@contextmanager
def generators_untouched(subject: Subject, what: str) -> Iterator[None]:
    """Expect Python's, numpy's and torch's global generators to be afterwards what they were."""

    def states() -> dict[str, Any]:
        numpys: Any = np.random.get_state()
        return {
            "random": random.getstate(),
            "numpy.random": (numpys[0], numpys[1].tolist(), *numpys[2:]),
            "torch": torch.get_rng_state().tolist(),
        }

    before = states()
    yield
    moved = [name for name, state in states().items() if state != before[name]]
    subject.expect(
        not moved,
        f"draws from the global generator of {', '.join(moved)} {what}",
        "Draw from the generator that is given, or from ctx.rng(...): others would move it, and it them.",
    )


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaN included."""
    return one.shape == other.shape and one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
