"""Measurements of ghostify, in folders as the package has them.

Each is run from the root of the repository, such as ``python -m benchmarks.zoo``; ``--help`` tells what it needs.
"""
