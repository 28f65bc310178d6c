"""envpool as an environment backend of pgzoo."""
