"""The layers that stand in a network, and the table of layer classes that ghostify understands."""
