"""Pure functions on tensors: no printing, logging, command-line options or run state."""
