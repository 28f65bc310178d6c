"""All conformance checks, as plain functions for pytest, the command line or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from pgzoo.errors import PluginError, did_you_mean
from pgzoo.registry import ComponentKind, Entry, PluginCatalog, PluginInfo
from pgzoo.testing import (
    algorithms,
    backends,
    diagnostics,
    distributions,
    env_states,
    estimators,
    listeners,
    plugins,
    policies,
    updates,
)
from pgzoo.testing.target import Check, CheckFailed, CheckTarget, Consequence, KnownException, NotApplicable
from pgzoo.training.threads import limit_threads

__all__ = [
    "CHECKS",
    "DECLARATIONS",
    "PLUGIN_CHECKS",
    "CheckFailed",
    "ComponentChecks",
    "Consequence",
    "KnownException",
    "NotApplicable",
    "check_component",
    "check_plugin",
]

CHECKS: Mapping[ComponentKind, Mapping[str, Check]] = {
    "algorithm": {**algorithms.CHECKS, **updates.CHECKS},
    "policy": {**policies.CHECKS, **distributions.CHECKS},
    "estimator": estimators.CHECKS,
    "env_backend": backends.CHECKS,
    "env_state": env_states.CHECKS,
    "dynamics": backends.DYNAMICS_CHECKS,
    "listener": listeners.CHECKS,
    "diagnostic": diagnostics.CHECKS,
}
"""The checks of components, by kind and name. Components of other kinds are checked with their plugin only."""

PLUGIN_CHECKS: Mapping[str, Check] = plugins.CHECKS

DECLARATIONS = "known-exceptions"
"""The name of the check of a component's declared exceptions."""

_TRAINS = ("settings", "loss-shape", "trains-discrete", "trains-box")
_ALONE = (*_TRAINS, "generators", "in-place", "padding", "seed-law")
_PLAIN = ("spaces", "init", "output", "generators", "pure", "rows-independent", "acting-has-no-effect")
CAUSES: Mapping[ComponentKind, Mapping[str, tuple[str, ...]]] = {
    "algorithm": {
        "trains-discrete": ("settings", "loss-shape"),
        "trains-box": ("settings", "loss-shape"),
        "trains-memory": _TRAINS,
        "learns": _TRAINS,
        "metrics": _TRAINS,
        "generators": _TRAINS,
        "in-place": _TRAINS,
        "inputs-unchanged": _TRAINS,
        "padding": (*_TRAINS, "generators", "inputs-unchanged"),
        "bootstrap": (*_TRAINS, "generators", "padding"),
        "truncation": (*_TRAINS, "generators", "padding"),
        "row-advantages": (*_TRAINS, "generators", "padding"),
        "critic-gradient": (*_TRAINS, "generators", "padding"),
        "sampled-actions": (*_TRAINS, "generators"),
        "episode-starts": (*_TRAINS, "generators", "padding", "trains-memory"),
        "info-values": (*_TRAINS, "generators", "padding"),
        "loss-arguments": (*_TRAINS, "generators", "in-place"),
        "improves": (*_TRAINS, "learns", "critic-improves"),
        "critic-improves": (*_TRAINS, "learns"),
        "seed-law": (*_TRAINS, "generators", "padding"),
        "sweep": _ALONE,
        "gamma": (*_TRAINS, "learns"),
        "frozen": _ALONE,
        "evaluation-has-no-effect": _ALONE,
        "resumable": (*_ALONE, "loss-arguments"),
    },
    "policy": {
        "output": ("spaces", "init"),
        "generators": ("spaces", "init", "output"),
        "critic": ("spaces", "init", "output"),
        "needs": ("spaces", "init", "output"),
        "log-probabilities": _PLAIN,
        "entropy": (*_PLAIN, "log-probabilities", "actor", "sampled-actions"),
        "draws": (*_PLAIN, "log-probabilities", "actor"),
        "kl": (*_PLAIN, "log-probabilities"),
        "mapped": _PLAIN,
        "row-policy": (*_PLAIN, "entropy", "draws", "actor", "actions"),
        "pure": ("spaces", "init", "output", "generators"),
        "actor": ("spaces", "init", "output", "generators", "pure", "rows-independent", "acting-has-no-effect"),
        "sampled-actions": ("spaces", "init", "output", "generators", "pure", "actor"),
        "actions": ("spaces", "init", "output"),
        "rows-independent": ("spaces", "init", "output", "pure"),
        "acting-has-no-effect": ("spaces", "init", "output", "generators", "pure"),
        "members": ("spaces", "init", "output", "generators", "pure", "rows-independent", "acting-has-no-effect"),
        "memory": ("spaces", "init", "output", "pure"),
        "buffers": ("spaces", "init", "output"),
        "masks": ("spaces", "init", "output", "pure"),
        "saved": ("spaces", "init", "output", "pure", "acting-has-no-effect"),
    },
    "estimator": {
        name: ("keywords", "pure", "shape", *more)
        for name, more in {
            "finite": (),
            "zeros": (),
            "gamma": (),
            "members": (),
            "episodes-independent": ("members", "padding"),
            "bootstrap": ("finite", "members"),
            "rewards": ("padding", "members"),
            "truncation": (),
            "info-values": (),
            "window-edge": ("gamma", "truncation", "members"),
            "padding": ("finite", "window-edge", "members"),
        }.items()
    },
    "env_backend": {
        "fits": ("close",),
        "results": ("close", "fits"),
        **dict.fromkeys(("new-arrays", "rows-independent", "next-step", "select"), ("close", "fits", "results")),
        "masks": ("close", "fits", "results", "new-arrays"),
        "steps": ("close", "fits", "results", "rows-independent", "next-step"),
    },
    "diagnostic": {
        "inputs-unchanged": ("measures",),
        "generators": ("measures",),
        "changes-nothing": ("measures", "inputs-unchanged", "generators"),
        "members": ("measures", "inputs-unchanged", "generators", "changes-nothing"),
    },
    "listener": {
        **dict.fromkeys(("raises-nothing", "returns-promptly", "events-unchanged"), ("creates",)),
        **dict.fromkeys(("snapshots", "closes"), ("creates", "raises-nothing", "returns-promptly")),
    },
}
"""For each check, those whose failure may be the reason why it fails. Then only the cause is reported."""


class ComponentChecks:
    """The checks of one component, each run at most once.

    `exceptions` are reasons by the names of checks that the component is allowed to fail. The component's own attribute
    `known_exceptions` is added to them.
    """

    def __init__(self, target: CheckTarget, exceptions: Mapping[str, str] | None = None) -> None:
        kind = target.component.kind
        self.target, self.checks, self.causes = target, CHECKS.get(kind, {}), CAUSES.get(kind, {})
        self.exceptions: Mapping[str, str] = {**_declared(target.component), **(exceptions or {})}
        self._found: dict[str, CheckFailed | NotApplicable | None] = {}

    @property
    def names(self) -> list[str]:
        """The names of the checks; the last one is of the declared exceptions, if there are any."""
        return [*self.checks, *([DECLARATIONS] if self.exceptions else [])]

    def run(self, name: str) -> None:
        """Run one check.

        Raises:
            CheckFailed: the component fails it, or passes it although it declares an exception from it.
            NotApplicable: there is nothing to check, or (KnownException) the failure is declared with a reason, or
                (Consequence) it is probably the consequence of another failure.
        """
        if name == DECLARATIONS:
            self._check_declarations()
            return
        found, reason = self._outcome(name), self.exceptions.get(name)
        if not isinstance(found, CheckFailed):
            self.target.expect(
                reason is None or found is not None,
                f'declares an exception from the check "{name}" ({reason}), but passes the check',
                "Remove the exception.",
            )
            if found is not None:
                raise found
            return
        if reason is not None:
            raise KnownException(f"{reason} [{found}]") from found
        for cause in self.causes.get(name, ()):
            if cause in self.checks and isinstance(self._outcome(cause), CheckFailed):
                raise Consequence(f'fails, probably because the check "{cause}" fails') from found
        raise found

    def _outcome(self, name: str) -> CheckFailed | NotApplicable | None:
        if name not in self._found:
            self._found[name] = self._run(name)
        return self._found[name]

    def _run(self, name: str) -> CheckFailed | NotApplicable | None:
        try:
            with limit_threads(1):  # the computations are so small that waking threads would take most of the time
                self.checks[name](self.target)
        except (CheckFailed, NotApplicable) as found:
            return found
        except Exception as error:
            failed = CheckFailed(
                f'{self.target.who} raises {type(error).__name__} in the check "{name}": {error}. '
                f"Checked is: {(self.checks[name].__doc__ or '').partition(chr(10))[0]}"
            )
            failed.__cause__ = error
            return failed
        return None

    def _check_declarations(self) -> None:
        for name, reason in self.exceptions.items():
            self.target.expect(
                name in self.checks,
                f'declares an exception from a check "{name}", and there is none.{did_you_mean(name, self.checks)}',
                "Correct or remove it.",
            )
            self.target.expect(
                isinstance(reason, str) and reason.strip(),
                f'declares an exception from the check "{name}" without a reason',
                "State the reason as a text.",
            )


def check_component(
    entry: Entry, catalog: PluginCatalog, exceptions: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield each check of a component: its name, and a function without arguments that runs it.

    The function returns if the check passes; else it raises CheckFailed or NotApplicable, see `ComponentChecks.run`.
    """
    checks = ComponentChecks(CheckTarget(entry.plugin, catalog, entry), exceptions)
    for name in checks.names:
        yield name, partial(checks.run, name)


def check_plugin(plugin: PluginInfo, catalog: PluginCatalog) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of a plugin itself, like `check_component`. The checks of its components aren't among them."""
    for name, check in PLUGIN_CHECKS.items():
        yield name, partial(check, CheckTarget(plugin, catalog))


def _declared(entry: Entry) -> dict[str, Any]:
    try:
        return dict(getattr(entry.load(), "known_exceptions", {}))
    except PluginError:  # it can't be imported, as the plugin's check "resolves" reports
        return {}
