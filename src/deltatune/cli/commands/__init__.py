"""The sub-commands: they parse, call one entry point of the library, and show what it returned."""
