"""What is kept of every run: schemas, the chain of entries, compaction, views, verification."""
