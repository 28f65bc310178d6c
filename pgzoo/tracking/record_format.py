"""The format of a journal's records, which are listed in `journal`: the fields of each kind, and their types.

A reader skips what isn't a record: a disk may damage lines, and folders come from other machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["is_record"]


def is_record(value: Any) -> bool:
    """Return whether a JSON value is a record: a mapping with a kind, in which each known field has its type.

    Records of kinds that this version doesn't know count, too.
    """
    if not (isinstance(value, dict) and isinstance(value.get("t"), str) and is_int(value.get("ts", 0))):
        return False
    fields = FIELDS.get(value["t"], {})
    if not all(fields[name](value[name]) for name in fields if name in value):
        return False
    if value["t"] == "evaluation" and len(value.get("returns", ())) != len(value.get("lengths", ())):
        return False
    return REQUIRED.get(value["t"], frozenset()) <= value.keys()


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: Any) -> bool:
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_text, value.values()))


def is_list(value: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(check, value))


def is_episodes(value: Any) -> bool:
    """Return whether a value is the steps, returns and lengths of as many episodes."""
    if not (is_list(value, lambda column: isinstance(column, list)) and len(value) == 3):
        return False
    checks = zip(value, (is_int, is_number, is_int), strict=True)
    return len({len(column) for column in value}) == 1 and all(is_list(column, check) for column, check in checks)


def is_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


FIELDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "start": dict.fromkeys(("key", "name", "group", "experiment", "uri", "algorithm", "env", "artifacts"), is_text)
    | {"seed": is_int, "params": is_texts, "tags": is_texts},
    "update": {"steps": lambda steps: is_list(steps, is_int), "m": is_metrics, "e": is_episodes},
    "evaluation": {
        "step": is_int,
        "mode": is_text,
        "final": lambda final: isinstance(final, bool),
        "returns": lambda returns: is_list(returns, lambda one: one is None or is_number(one)),
        "lengths": lambda lengths: is_list(lengths, is_int),
        "m": is_metrics,
    },
    "artifact": {"path": is_text},
    "tags": {"tags": is_texts},
    "end": {"status": lambda status: status in ("FINISHED", "FAILED", "KILLED"), "reason": is_text},
}
"""The fields of each kind of record, and what their values must be."""
REQUIRED: Mapping[str, frozenset[str]] = {
    kind: frozenset(FIELDS[kind]) - {"m"} for kind in ("evaluation", "artifact", "tags", "end")
}
"""The fields without which a record of this kind means nothing."""
