"""Without the plugin, whose wandb takes 70 MB, there is nothing to test."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("pgzoo_wandb") else ["test_*.py"]
