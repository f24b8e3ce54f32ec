"""Accuracy back from a few unlabelled images: the closed form, then gradient steps block by block."""
