"""Both papers' tables and figures: they use the package, and are no part of it."""
