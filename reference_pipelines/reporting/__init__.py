"""What a run leaves for people to look at: tables, curves, ranked lists, attention maps."""
