"""Class labels of images."""
