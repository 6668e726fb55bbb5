"""Requests over HTTP: a stateless front door to the durable inbox; it imports neither Ray nor torch."""
