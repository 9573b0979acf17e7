"""deltatune: parameter-efficient fine-tuning that measures what it claims."""

__version__ = "0.1.0"
