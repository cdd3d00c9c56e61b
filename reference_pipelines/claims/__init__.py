"""What the papers claim by comparing, as data, and the verdict that a ledger allows on each claim."""
