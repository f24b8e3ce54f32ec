"""Accuracy after distillation, and what the training loop costs."""
