"""Measurements: each prints the figures that the docs cite."""
