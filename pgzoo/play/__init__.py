"""A policy at work without learning: evaluation and video."""
