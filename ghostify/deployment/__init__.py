"""Inference: fold a student, export it, run it on a runtime, time it."""
