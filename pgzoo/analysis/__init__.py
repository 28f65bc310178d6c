"""Statistics over seeds, and reports that compare runs."""
