"""Registers the built-in return estimators, which are functions in `pgzoo.ops.returns`, and their settings."""
