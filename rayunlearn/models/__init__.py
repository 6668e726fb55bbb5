"""Classifiers, generators and weight files."""
