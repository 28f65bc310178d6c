"""Without ray there is nothing to test."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ray") and find_spec("pgzoo_ray") else ["test_*.py"]
