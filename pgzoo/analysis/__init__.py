"""Looking at results: plots and statistics over seeds."""
