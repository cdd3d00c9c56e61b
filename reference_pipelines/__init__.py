"""The two papers as programs, built on the public names of attnreid."""
