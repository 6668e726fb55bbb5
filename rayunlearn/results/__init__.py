"""What is kept of every run: the store, the ledger's schemas, the ledger and the report."""
