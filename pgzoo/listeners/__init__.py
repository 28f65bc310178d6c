"""Built-in listeners: what reports a run to its user."""
