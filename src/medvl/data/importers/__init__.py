"""One small module per published layout."""
