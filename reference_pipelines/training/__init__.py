"""What both pipelines share: steps, the optimiser and its schedule, and a session that does epochs."""
