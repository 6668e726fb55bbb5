"""Where the project meets Ray: actors, placement, Train loops, and the driver that serves requests."""
