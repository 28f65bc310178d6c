"""Without the plugin, which brings some 300 MB, there is nothing to test."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("pgzoo_envpool") else ["test_*.py"]
