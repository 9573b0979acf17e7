"""Comparisons: many runs under the same conditions, and which of their differences are real."""
