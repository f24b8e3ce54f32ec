"""What goes into a network: models by name, example inputs, pictures to batches."""
