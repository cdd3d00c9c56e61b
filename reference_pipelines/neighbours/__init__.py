"""Who is near whom: exact search, reciprocal sets, and the compiled loops behind clustering and re-ranking."""
