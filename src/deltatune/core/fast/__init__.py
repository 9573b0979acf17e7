"""What only makes the core faster or smaller: without it every number is the same, to rounding."""
