"""Training a student towards its teacher, with checkpoints that resume."""
