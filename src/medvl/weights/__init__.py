"""Weights of other programs, and where a network starts from."""
