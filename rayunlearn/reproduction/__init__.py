"""The papers' tables and figures: what they print, what is run for them, and how both are set side by side."""
