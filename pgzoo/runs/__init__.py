"""A run from outside: from names and settings to a result."""
