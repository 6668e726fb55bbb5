"""The commands: from flags to what is printed, and an exit code."""
