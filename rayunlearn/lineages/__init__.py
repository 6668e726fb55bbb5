"""What serving, auditing and tuning know of a lineage: its settings, requests, runs and versions."""
