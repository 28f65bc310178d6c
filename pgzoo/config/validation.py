"""Values into a model; what is wrong with them, in one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

__all__ = ["validate"]


def validate(model: Any, values: Mapping[str, Any], origin: Callable[[str], str], errors: list[str]) -> Any:
    """Build the model, or add one line per mistake to `errors` and return None."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = [str(part) for part in detail["loc"]]
            message = detail["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
            message = (message[:1].lower() + message[1:]).replace("input should be", "must be", 1)
            if not path:
                errors.append(message)
            elif detail["type"] == "missing":
                errors.append(f"{path[0]} is missing: give --{path[0].replace('_', '-')}")
            else:
                errors.append(f"{origin(path[0])}: {message} (got {_said(detail['input'])})")
        return None


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_said(part)}" for key, part in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else "none" if value is None else repr(value)
