"""Accuracy straight after calibration, and what calibration costs."""
