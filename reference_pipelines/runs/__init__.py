"""A run on the disk: its folder, checkpoints, state, result, and how it is gone on with."""
