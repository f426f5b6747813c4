"""The training loop and what it needs; it knows only tasks."""
