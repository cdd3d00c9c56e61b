"""What a recipe may say, how it is read, and the recipes that are shipped; imports no torch, as --help shows it."""
