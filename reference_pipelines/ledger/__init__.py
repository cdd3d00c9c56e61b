"""The ledger: every number has a line with what made it, and the ranks from which its scores can be computed again."""
