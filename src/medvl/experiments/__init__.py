"""What researchers run around the core, which imports none of it."""
