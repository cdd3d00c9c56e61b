"""Put attention into a backbone by name, and take it out again."""
