"""The training of a run: collect, estimate, update. Yields events; independent of plugins, tracking and terminals."""
