"""Measurements of speed and quality; each prints and stores its figures, the last line as JSON."""
