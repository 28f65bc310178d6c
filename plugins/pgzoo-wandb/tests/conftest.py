"""Skips these tests if the plugin isn't installed: its dependency wandb takes 70 MB."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("pgzoo_wandb") else ["test_*.py"]
