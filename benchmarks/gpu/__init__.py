"""Programs of sampling and training timed on one GPU, beside PyTorch's; `python -m benchmarks.gpu --help`."""
