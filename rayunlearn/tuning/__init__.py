"""Sweeps: Ray Tune searches settings, judged by synthetic sets alone."""
