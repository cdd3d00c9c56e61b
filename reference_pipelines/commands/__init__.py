"""The command line: what may be said on it, and what each command does."""
