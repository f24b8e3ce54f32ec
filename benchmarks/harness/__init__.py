"""What all benchmarks share: arguments, data, networks, the rival, result files, tables and figures."""
