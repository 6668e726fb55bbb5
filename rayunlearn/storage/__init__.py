"""Named files in one place: a folder or a bucket, the lease on it, and the inbox."""
