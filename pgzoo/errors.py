"""Every error that pgzoo raises on purpose.

A message says what is wrong, which component or setting is concerned (for a plugin with its distribution and version),
and what to do next. The tree, with the exit code of the command line:

    PgzooError                 1   anything below
    ├── UsageError             2   the request can't be carried out as written; nothing was created
    │   ├── UnknownName        2   no component of that name (with "did you mean")
    │   ├── ConfigError        2   an option, a YAML key or a value is wrong
    │   ├── EnvError           2   the environment can't be made here
    │   ├── UnfitError         2   two components don't fit each other
    │   ├── CheckpointError    2   a checkpoint is missing, damaged, or written by another program or a newer version
    │   └── StoreError         2   the tracking store or a folder can't be used
    ├── PluginError            2   a plugin is broken, clashes with another or is built for another API
    └── RunFailed              1   a run started and failed (NaN, a component that raised)
"""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "EnvError",
    "PgzooError",
    "PluginError",
    "RunFailed",
    "StoreError",
    "UnfitError",
    "UnknownName",
    "UsageError",
    "did_you_mean",
    "raised_at",
    "visible",
]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that act on a terminal: control characters but newline and tab, and those that turn text around."""


class PgzooError(Exception):
    """The root of the tree."""

    exit_code = 1


class UsageError(PgzooError):
    """The request can't be carried out as written."""

    exit_code = 2


class UnknownName(UsageError):
    """No component of that name."""


class ConfigError(UsageError):
    """An option, a YAML key or a value is wrong."""


class EnvError(UsageError):
    """The environment can't be made here."""


class UnfitError(UsageError):
    """Two components don't fit each other, such as a policy and an action space."""


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged, of another program or version, or doesn't match the run to resume."""


class StoreError(UsageError):
    """The tracking store, or a folder that a run needs, can't be used."""


class PluginError(PgzooError):
    """A plugin is broken, clashes with another or is built for another API."""

    exit_code = 2


class RunFailed(PgzooError):
    """A run started and failed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean "x"?' for the nearest known name, or an empty string.

    The leading space lets a message append it unconditionally.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:  # a difference of case alone scores low in a short name
        near = [k for k in known if k.lower() == name.lower()]
    return f' Did you mean "{near[0]}"?' if near else ""


def raised_at(error: BaseException) -> str:
    """Return ' (FILE, line N)': the innermost line of code outside of installed packages that raised an error.

    If all of the traceback lies in pgzoo, in Python or in installed packages, no code of the user's is involved, and
    the result is empty; but for an error without a message it is the line that raised the error.

    Compiled code that was loaded from a file leaves no traceback: its error has the line as `compiled_line`, a
    `traceback.FrameSummary`.
    """
    own = os.path.dirname(os.path.abspath(__file__)) + os.sep
    library = os.path.dirname(os.__file__) + os.sep
    everything = traceback.extract_tb(error.__traceback__)
    if line := getattr(error, "compiled_line", None):
        everything.append(line)
    frames = [
        frame
        for frame in everything
        if not frame.filename.startswith((own, library, "<"))
        and not {"site-packages", "dist-packages"} & set(frame.filename.split(os.sep))
    ]
    if not frames and not str(error):
        frames = everything[-1:]
    if not frames:
        return ""
    return f" ({shown_path(frames[-1].filename)}, line {frames[-1].lineno})"


def creation_error(component: str, error: Exception, advice: str = "") -> PluginError:
    """Return the error to raise where the code of a component raised while the component was created."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ").removesuffix(".")
    parts = f"{component} can't be created: {text}{raised_at(error)}.", advice, "PGZOO_DEBUG=1 shows the traceback."
    return PluginError(" ".join(part for part in parts if part))


def shown_path(file: str) -> str:
    """Return the path of a file of code, relative to the working directory or to site-packages if it lies there."""
    shown = os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file
    return shown.rpartition(f"{os.sep}site-packages{os.sep}")[2]


def visible(text: str) -> str:
    r"""Return a text in which a terminal finds no commands: control characters become `\x1b` and the like.

    Newlines and tabs stay. Names of runs may come from a server, and end up in a terminal.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
