"""From raw text to the five tables that the pipeline reads."""
