"""What every part stands on: files that are written whole or not at all."""
