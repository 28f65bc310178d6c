"""Tracking URIs with a password: removed from files and messages, and stored in one private file."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pgzoo.tracking.home import Home, display_uri
from pgzoo.tracking.ledger import read_json, write_json
from pgzoo.tracking.locks import lock

__all__ = ["hide_secrets", "reveal_secrets"]


def hide_secrets(uri: str, home: Home) -> str:
    """Return the URI without its secrets, for journals; store the complete URI in the home's secrets file.

    Raises OSError if that file can't be written.
    """
    public = display_uri(uri)
    if public != uri:
        mine = lock(home.secrets_file.with_suffix(".lock"), timeout=10.0)
        try:
            known = read_json(home.secrets_file)
            if known.get(public) != uri:
                write_json(home.secrets_file, {**known, public: uri}, durable=True)
        finally:
            if mine is not None:
                mine.release()
    return public


def reveal_secrets(public: str, home: Home, environ: Mapping[str, str] | None = None) -> str:
    """Return the real URI for one returned by `hide_secrets`.

    `MLFLOW_TRACKING_URI` takes precedence, because its password may be newer than the stored one.
    """
    environ = os.environ if environ is None else environ
    current = environ.get("MLFLOW_TRACKING_URI", "").strip().rstrip("/")
    if current and display_uri(current) == public:
        return current
    return str(read_json(home.secrets_file).get(public, public)) if "***" in public else public
