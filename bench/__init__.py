"""Rendered releases, and throughput against the reference system's own way of working."""
