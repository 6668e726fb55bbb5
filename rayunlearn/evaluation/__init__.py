"""Measures of what a model still knows: torch and scikit-learn only, no Ray, no files."""
