"""What a run is given: rows and base, its budget, a saved delta, the machine, a folder."""
