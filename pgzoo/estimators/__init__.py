"""Built-in return estimators: thin names over `pgzoo.ops.returns`, registered in `plugin.py`."""
