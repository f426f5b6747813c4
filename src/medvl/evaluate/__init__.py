"""From predictions to evidence; needs no model."""
