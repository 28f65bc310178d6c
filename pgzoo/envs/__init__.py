"""Environments: creating them, checking their ids, and the backends (registered in `plugin.py`)."""
