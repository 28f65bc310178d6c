"""A launcher for pgzoo that trains the seeds of a run on a Ray cluster."""
