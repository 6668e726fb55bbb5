"""An accepted request becomes a published version."""
