"""Networks, scenes and processes that several tests use."""
