"""Totals and timelines for others to work with: over HTTP and for operators."""
