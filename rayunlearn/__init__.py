"""A Ray-based scheduler for machine unlearning of image classifiers."""

from rayunlearn.extras import watch_imports

__version__ = "0.1.0"

watch_imports()
