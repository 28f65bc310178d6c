"""Environments: making one, what is known of an id, and the backends that run many (registered in `plugin.py`)."""
