"""How long a test waits before it calls what it waits for hung."""

HANG_S = 1200.0
"""Ends a test that would wait for ever, and decides nothing else: on a busy machine one phase of a job has
taken thirty times as long as on an idle one."""
