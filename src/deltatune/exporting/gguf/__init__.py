"""Merged models and low-rank deltas in llama.cpp's file format."""
