"""Built-in diagnostics, which measure the training of a run without changing it; registered in `plugin.py`."""
