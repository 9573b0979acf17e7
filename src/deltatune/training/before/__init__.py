"""What is known of runs before they begin: memory, time, bytes on the disk, the data as a model sees them."""
