"""Flags of every command, apart from what the commands do: the help imports neither torch, Ray nor Arrow."""
