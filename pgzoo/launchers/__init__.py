"""Built-in launchers, which train the seeds of a run in this process or in several; registered in `plugin.py`."""
