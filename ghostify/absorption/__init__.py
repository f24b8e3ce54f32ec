"""What one pass of images through the original tells of its spans, and the layers that absorb the maps that go."""
