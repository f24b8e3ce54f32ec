"""Latency, memory and 8 bits, of originals, students and pruned networks."""
