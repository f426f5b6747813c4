"""What comes in: records, images, text, geometry."""
