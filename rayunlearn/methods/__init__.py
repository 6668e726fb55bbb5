"""Training and unlearning methods, torch only."""
