"""Built-in algorithms, one readable file each, registered in `plugin.py`."""
