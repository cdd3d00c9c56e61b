"""Experiments as data: which runs make a table, and what runs them."""
