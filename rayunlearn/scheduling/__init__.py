"""Decisions of the scheduler as pure functions: no Ray, no I/O, no clock, no torch."""
