"""Built-in listeners: they report on a run."""
