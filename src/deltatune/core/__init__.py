"""The core: deltas, the adapters made of them, and the taps that hang them on a frozen base."""
