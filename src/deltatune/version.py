"""The version of the package, which files say that they were written with."""

__version__ = "0.2.0"
