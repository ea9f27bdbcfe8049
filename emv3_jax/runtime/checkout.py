"""Makes configs/ and convert/, which lie beside the package in a checkout, parts of it, as in a wheel."""

from collections.abc import Sequence
import importlib.abc
from importlib.machinery import ModuleSpec
import importlib.util
import pathlib
import sys
import types

_PACKAGE = pathlib.Path(__file__).parents[1]
BESIDE = {f"{_PACKAGE.name}.{name}": _PACKAGE.parent / name / "__init__.py" for name in ("configs", "convert")}


class _FoldersBeside(importlib.abc.MetaPathFinder):
  """Finds the packages of `BESIDE` in their folders, and nothing else."""

  def find_spec(self, fullname: str, path: Sequence[str] | None,
                target: types.ModuleType | None = None) -> ModuleSpec | None:
    file = BESIDE.get(fullname)
    if file is None or not file.is_file():
      return None
    return importlib.util.spec_from_file_location(
        fullname, file, submodule_search_locations=[str(file.parent)])


def add_folders_beside() -> None:
  """Makes `emv3_jax.configs` and `emv3_jax.convert` importable where they are not folders of the package."""
  if not any(isinstance(finder, _FoldersBeside) for finder in sys.meta_path):
    sys.meta_path.append(_FoldersBeside())  # after the usual ones: a wheel's own folders come first
