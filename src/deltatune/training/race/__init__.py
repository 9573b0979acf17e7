"""Several runs over one base that make their steps together."""
