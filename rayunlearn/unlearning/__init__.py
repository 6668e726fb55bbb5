"""A run as plain code: its phases are functions of values, and whoever calls them keeps what they give."""
