"""What training takes: predicted on fake tensors before anything is loaded, and measured the same way."""
