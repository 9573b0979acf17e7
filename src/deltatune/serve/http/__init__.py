"""What a client sees of the engine."""
