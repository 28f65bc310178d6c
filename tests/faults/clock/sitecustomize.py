"""A wall clock that can be set: the file named by CLOCK holds the seconds by which it is off."""

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
