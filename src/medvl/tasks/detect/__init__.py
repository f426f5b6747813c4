"""Boxes of images."""
