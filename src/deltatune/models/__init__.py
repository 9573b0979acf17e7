"""Base models: loading them, the bundled ones, and their fingerprint."""
