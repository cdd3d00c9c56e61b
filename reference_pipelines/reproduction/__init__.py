"""Both papers' experiments by name: what each runs, at which scale, and what came out beside the paper's numbers."""
