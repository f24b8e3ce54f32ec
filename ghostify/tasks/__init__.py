"""Kinds of networks: how a student is compared with its teacher, and how it is judged."""
