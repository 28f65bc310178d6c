"""TensorBoard for pgzoo."""
