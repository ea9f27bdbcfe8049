"""The small model, the portrait and the voice of the sampling tests."""

from tests.sampling.conftest import files, model  # noqa: F401 (fixtures)
