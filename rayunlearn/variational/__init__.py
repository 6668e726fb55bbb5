"""Variational Bayesian unlearning (Nguyen, Low and Jaillet 2020): EUBO and RKL, and what they unlearn."""
