"""Giving away what was trained: a run for the Hugging Face Hub, a comparison in one file."""
