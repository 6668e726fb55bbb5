"""Images made from a model's weights alone."""
