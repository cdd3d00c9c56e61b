"""Attention layers for person re-identification that drop into any pretrained backbone and come out again."""

__version__ = "0.1.0"
