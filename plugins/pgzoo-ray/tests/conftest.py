"""Skips these tests if ray or the plugin isn't installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for `nodes`

collect_ignore_glob = [] if find_spec("ray") and find_spec("pgzoo_ray") else ["test_*.py"]
