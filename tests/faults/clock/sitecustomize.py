"""A wall clock that can be set: the file named by CLOCK contains its offset in seconds."""

import os
import time

true = time.time


def shifted() -> float:
    try:
        with open(os.environ["CLOCK"]) as file:
            return true() + float(file.read() or 0)
    except (OSError, KeyError):
        return true()


time.time = shifted
