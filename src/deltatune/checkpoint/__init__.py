"""Files: saved deltas in peft's format, and the state from which an interrupted run goes on."""
