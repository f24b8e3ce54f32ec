"""Traced graphs: sites, what operations do to channels, sums, running a part of a graph."""
