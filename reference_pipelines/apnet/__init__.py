"""APNet (Chen et al., TIP 2021): supervised re-identification with an attention pyramid."""
