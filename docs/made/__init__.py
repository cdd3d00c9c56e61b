"""What the documentation site needs beyond Sphinx: tables made while it is built, mathematics, links."""
