"""Seeded synthetic radiographs with report, masks and boxes."""
