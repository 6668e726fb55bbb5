"""The one room that knows actors: executor, sealed processes, placement, recovery, Ray Train."""
