"""The training loop of one run, and its parts."""
