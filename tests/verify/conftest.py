"""A model folder with one small component, made once; each test that changes it takes a copy."""

import shutil

import pytest

from tests.verify import small_model


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
  """(model folder, folder of sources) with a text encoder."""
  return small_model.make(tmp_path_factory.mktemp("verify"), ["text_encoder"])


@pytest.fixture
def own_text_model(text_model, tmp_path):
  """A copy that the test may change."""
  for name, folder in zip(("model", "sources"), text_model, strict=True):
    shutil.copytree(folder, tmp_path / name)
  return tmp_path / "model", tmp_path / "sources"
