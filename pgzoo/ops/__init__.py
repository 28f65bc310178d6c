"""Pure functions on tensors: nothing here prints, logs, reads a flag or knows of a run."""
