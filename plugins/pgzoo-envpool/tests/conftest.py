"""Skips these tests if the plugin isn't installed: its dependencies take some 300 MB."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("pgzoo_envpool") else ["test_*.py"]
