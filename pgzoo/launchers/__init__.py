"""Built-in launchers: where the seeds of a run are trained; registered in `plugin.py`."""
