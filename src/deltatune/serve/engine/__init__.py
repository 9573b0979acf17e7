"""The engine: it knows no HTTP."""
