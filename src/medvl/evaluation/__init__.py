"""Evaluations: records, comparison, reports."""
