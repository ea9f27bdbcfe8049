"""Speed of the networks against other implementations of them; `python -m benchmarks --help`."""
