"""Ranks of the true matches: what is kept of an evaluation, and every score again out of it."""
