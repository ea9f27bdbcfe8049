"""Parity tests need PyTorch: their files are not even imported unless they are asked for."""


def pytest_ignore_collect(collection_path, config):
  return None if config.getoption("--parity") else True
