"""The version of the package, which files say that they were written with."""

__version__ = "0.1.0"
