"""Weights & Biases for pgzoo."""
