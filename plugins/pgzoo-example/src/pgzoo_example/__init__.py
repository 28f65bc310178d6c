"""An example of a plugin for pgzoo."""
