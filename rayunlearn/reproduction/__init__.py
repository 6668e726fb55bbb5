"""The papers' tables and figures: what they print, what is run for them, and both side by side."""
