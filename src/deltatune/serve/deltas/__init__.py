"""The deltas that are served, by their names."""
