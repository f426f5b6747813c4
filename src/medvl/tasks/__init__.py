"""Tasks join data, model and objective."""
