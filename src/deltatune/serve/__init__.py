"""Serving runs: several deltas on one base answer over HTTP, their rows mixed in one batch.

engine/  one thread that owns the model: what is asked waits, is batched, and is written token by token
deltas/  which runs there are on the base, and which of their deltas are in memory
http/    routes, limits, and everything that a client sees; it asks the engine and never the model
"""
