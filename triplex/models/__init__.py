"""Loading, building, training and saving language models."""
