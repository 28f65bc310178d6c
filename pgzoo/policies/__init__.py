"""Built-in policies, registered in `plugin.py`."""
