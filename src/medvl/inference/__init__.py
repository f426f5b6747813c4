"""From a model folder to predictions."""
