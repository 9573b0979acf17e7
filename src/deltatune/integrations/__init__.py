"""Deltas in training loops of others: one's own, Transformers' and TRL's trainers, Lightning.

`loop.py` is what they have in common: the calls that a method's schedule needs, and the proof at the end.
Each of the other modules brings a library's own hooks to it, and imports that library.
"""
