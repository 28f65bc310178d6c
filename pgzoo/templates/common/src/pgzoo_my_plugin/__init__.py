"""A plugin for pgzoo."""
