"""Segmentation under the guidance of text."""
