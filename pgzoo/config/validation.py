"""Validate values against a model, and describe each mistake in one line."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Literal

from pydantic import ValidationError

__all__ = ["has_own_none", "normalize", "shorten", "validate"]

MAX_ERRORS = 20
"""Mistakes that are listed; the rest are counted."""

MAX_TEXT = 200
"""Characters of a value that a message shows."""

MAX_ITEMS = 20
"""Items of a list or mapping that a message shows."""


PLAIN = {
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "too_short": "must have {min_length} or more items",
    "too_long": "must have at most {max_length} items",
}
"""Messages in place of pydantic's, by the type of its error."""


def validate(model: Any, values: Mapping[str, Any], origin: Callable[[str], str], errors: list[str]) -> Any:
    """Return the model for `values`; if they are invalid, add one line per mistake to `errors` and return None.

    `origin` says for a key where its value was given.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors(include_url=False)
        texts = {detail["loc"][0] for detail in details if detail["type"] == "string_type"}
        # a field that takes text or "none" has an error for each of the two
        details = [d for d in details if d["type"] != "literal_error" or d["loc"][0] not in texts]
        for detail in details[:MAX_ERRORS]:
            path = [str(part) for part in detail["loc"]]
            message = detail["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
            message = (message[:1].lower() + message[1:]).replace("input should be", "must be", 1)
            if detail["type"] in PLAIN:
                message = PLAIN[detail["type"]].format_map(detail.get("ctx", {}))
            if not path:
                errors.append(message)
            elif detail["type"] == "missing":
                errors.append(f"{path[0]} is missing: give --{path[0].replace('_', '-')}")
            else:
                errors.append(f"{origin(path[0])}: {message} (got {shorten(_describe(detail['input']))})")
        if len(details) > MAX_ERRORS:
            errors.append(f"and {len(details) - MAX_ERRORS:,} more mistakes")
        return None


def normalize(value: Any, annotation: Any) -> Any:
    """Read a value for a field as on the command line, in YAML and in Python alike.

    Where the field is a whole number, 100000.0 and "1e5" are 100000. Where it may be None, "none" is None, unless
    the field has "none" among its own values.

    Raises:
        ValueError: the field is a number, and the value is True or False.
    """
    annotation, optional = _unwrap(annotation)
    if optional and isinstance(value, str) and value.strip().lower() == "none":
        return "none" if has_own_none(annotation) else None
    if annotation in (int, float) and isinstance(value, bool):
        raise ValueError("must be a number")
    if annotation is int:
        return _whole_number(value)
    if typing.get_origin(annotation) is tuple and isinstance(value, list | tuple):
        return [normalize(item, typing.get_args(annotation)[0]) for item in value]
    return value


def has_own_none(annotation: Any) -> bool:
    """Return whether the text "none" is a value of the field, rather than another form of None."""
    kinds = (annotation, *typing.get_args(annotation))
    return any(typing.get_origin(kind) is Literal and "none" in typing.get_args(kind) for kind in kinds)


def shorten(text: str) -> str:
    """Return a text, cut off if it is longer than a message should be."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def _whole_number(value: Any) -> Any:
    """Return an int for a whole float and for its text; anything else unchanged."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, str) and not value.strip().lstrip("+-").isdecimal():  # int() reads those without rounding
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """Return the type inside `Annotated` and `| None`, and whether None is allowed."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _unwrap(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType]
        optional = len(inner) < len(typing.get_args(annotation))
        return (_unwrap(inner[0])[0], optional) if len(inner) == 1 else (annotation, optional)
    return annotation, False


def _describe(value: Any) -> str:
    if isinstance(value, Mapping | tuple | list) and not value:
        return repr(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_describe(part)}" for key, part in islice(value.items(), MAX_ITEMS))
    if isinstance(value, tuple | list):
        return ",".join(_shown_item(item) for item in islice(value, MAX_ITEMS))
    return "none" if value is None else repr(value)


def _shown_item(item: Any) -> str:
    return f"[{len(item)} items]" if isinstance(item, tuple | list | Mapping) else str(item)
