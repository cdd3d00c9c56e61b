"""MLA (Zheng, 2022): unsupervised re-identification with pixel-, head- and domain-level attention."""
