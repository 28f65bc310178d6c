"""One run from inside: collect, estimate, update; events come out. Knows no plugins, trackers or terminals."""
