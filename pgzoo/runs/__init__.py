"""Start, resume and repeat runs: from settings to a result."""
