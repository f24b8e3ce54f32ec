"""Accuracy against size: what each site loses, and sweeps over settings."""
