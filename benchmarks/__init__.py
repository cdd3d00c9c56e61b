"""Speed against what a user would pick instead: python -m benchmarks.

All variants run in one process, round by round in turn, after a check that they compute the same.
"""
