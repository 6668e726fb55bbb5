"""The ledger as people read it: summary, table, report pages, certificate."""
