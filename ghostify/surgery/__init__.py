"""A planned site becomes a layer: which channels stay, starting weights, the swap."""
