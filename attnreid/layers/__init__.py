"""The attention layers, one idea a file."""
