"""Pre-training on image-report pairs (G2D), and what it can do without labels."""
