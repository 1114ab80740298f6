"""Perplexity on three levels."""
