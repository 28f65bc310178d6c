"""Standard output and error that may be closed, full, or read by a program that ends early."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import re
import sys
from typing import TextIO

from pgzoo.errors import visible

__all__ = ["WIDTH", "exit_code", "guard"]

SIGPIPE_EXIT = 141
"""What a shell reports for a program that ended because nobody reads its output any more."""

WIDTH = re.compile("[1-9][0-9]{0,5}")
"""A value of the variable COLUMNS that is a width."""

SIMILAR = str.maketrans({"−": "-", "–": "-", "—": "-", "…": "...", "·": "-", "±": "+/-", "×": "x", "─": "-", "━": "-"})
"""What is printed instead of these characters where the encoding of the terminal doesn't have them."""


class _Output(io.FileIO):
    """A file descriptor to which writing never fails. `error` is the first error; what follows it is dropped."""

    error: OSError | None = None

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                raise
            self.error = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes  # type: ignore[arg-type]


def guard() -> _Output:
    """Let a command continue when its output can't be written, so that a run is trained and tracked to its end.

    Descriptors 0 to 2 that are closed lead to the null device, so that no file of a run gets their numbers. Characters
    that act on a terminal are made visible in warnings. A variable COLUMNS that isn't a width is removed.

    Returns:
        standard output; `exit_code` needs it at the end.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    out = _Output(1, "w", closefd=False)
    sys.stdout = _text(out, sys.stdout)
    sys.stderr = _text(_Output(2, "w", closefd=False), sys.stderr, line_buffering=True)
    if not WIDTH.fullmatch(os.environ.get("COLUMNS", "")):
        os.environ.pop("COLUMNS", None)  # rich would print nothing in 0 columns
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Visible())
    return out


def _text(raw: _Output, like: TextIO | None, *, line_buffering: bool = False) -> TextIO:
    """Return a text stream with the encoding of an earlier one, which is None if its descriptor was closed."""
    encoding, errors = (like.encoding, like.errors) if like is not None else ("utf-8", "backslashreplace")
    if like is not None:
        like.flush()
    if encoding.lower() not in ("utf-8", "utf8") and errors in ("strict", "surrogateescape", "backslashreplace"):
        errors = "pgzoo.readable"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors, line_buffering=line_buffering or raw.isatty(), write_through=False
    )


def _readable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return characters like those that an encoding doesn't have, and undecodable bytes of file names as they were."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in text):
        return os.fsencode(text), error.end
    return text.translate(SIMILAR).encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("pgzoo.readable", _readable)


def exit_code(code: int, out: _Output) -> int:
    """Return the exit code of a command that ended with `code`, given what became of its output.

    A full disk is reported on stderr. A reader that went away (`pgzoo envs | head -1`) isn't.
    """
    sys.stdout.flush()
    if out.error is not None and out.error.errno != errno.EPIPE:
        print(f"Error: can't write to standard output: {out.error.strerror}.", file=sys.stderr, flush=True)
    if out.error is None or code:
        return code
    return SIGPIPE_EXIT if out.error.errno == errno.EPIPE else 1


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
