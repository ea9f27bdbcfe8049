"""Imports run one way: networks know nothing of files, meshes or command lines."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Module or package -> floor; a module imports its own floor and lower ones. The longest name counts.
FLOORS = {
    "errors": 0, "limits": 0, "arrays": 0, "geometry": 0, "runtime.start_up": 0, "runtime.processes": 0, "runtime.program_entries": 0, "runtime.executables": 1, "runtime.kept_programs": 1, "runtime.kept_shapes": 4, "runtime.config": 1, "runtime.config_values": 1,
    "attention": 2, "models": 3, "diffusion": 4, "tasks": 4, "variants": 4, "io": 5, "conditioning": 6,
    "faces": 5, "sharding": 6, "components": 7, "data": 8, "metrics": 8, "sampling": 9, "jobs": 10, "preparation": 10, "training": 10,
    "jobs.ray_sampler": 12, "plan": 11, "puppets": 12, "verify": 12, "runtime": 11, "preparation.__main__": 12, "preparation.ray_shards": 12, "configs": 11, "convert": 12,
    "web": 12, "commands": 13, "runtime.command_names": 0, "runtime.checkout": 0, "runtime.machine": 0, "runtime.moved": 0,
}
BESIDE = ("configs", "convert")  # of a checkout; parts of the package where it is installed
OUTSIDE = {"verify"}  # a command line that compares with other people's code: it may import that
NETWORK_LIBRARIES = {"jax", "flax", "numpy", "jaxtyping", "emv3_jax"}
STANDARD = {"collections", "operator", "dataclasses", "functools", "math", "typing", "enum", "itertools"}


def imports(path: pathlib.Path) -> set[str]:
  """Dotted names that a file imports, `from a import b` as `a.b`."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0 or node.level == 1 and path.parent == ROOT / "convert", f"{path}: relative import"
      module = f"emv3_jax.convert.{node.module}" if node.level else node.module
      found |= {f"{module}.{alias.name}" for alias in node.names}
  return found


def room(name: str) -> str | None:
  """The entry of FLOORS that a dotted name of this package belongs to."""
  parts = name.split(".")[1:] if name.startswith("emv3_jax.") else []
  rooms = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
  return next((found for found in rooms if found in FLOORS), rooms[-1] if rooms else None)


FILES = sorted(path for path in (ROOT / "emv3_jax").rglob("*.py") if path.name != "__init__.py")


FILES_BESIDE = sorted(path for folder in BESIDE for path in (ROOT / folder).glob("[!_]*.py"))


@pytest.mark.parametrize("path", FILES + FILES_BESIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path):
  parts = path.relative_to(ROOT).with_suffix("").parts
  own = room(".".join(parts if parts[0] == "emv3_jax" else ("emv3_jax", *parts)))
  for name in imports(path):
    imported = room(name)
    if imported is not None:
      assert FLOORS[imported] <= FLOORS[own], f"{own} imports {name}"
    assert name.split(".")[0] not in (*BESIDE, "tests"), f"{own} imports {name}, which is not installed"


@pytest.mark.parametrize("path", [path for path in FILES if "models" in path.parts],
                         ids=lambda path: path.stem)
def test_networks_are_pure(path):
  outside = {name.split(".")[0] for name in imports(path)} - NETWORK_LIBRARIES - STANDARD
  assert not outside, f"a network imports {outside}"


def test_core_needs_no_torch_or_tensorflow():
  for path in FILES:
    if path.relative_to(ROOT / "emv3_jax").parts[0] in OUTSIDE:
      continue
    heavy = {name.split(".")[0] for name in imports(path)} & {"torch", "tensorflow"}
    assert not heavy, f"{path} imports {heavy}"


@pytest.mark.parametrize("path", ["conditioning/text.py", "conditioning/audio.py", "io/resampling.py"])
def test_libraries_that_load_slowly_wait_for_their_use(path):
  """A start that does not need them is a second shorter each."""
  module = ast.parse((ROOT / "emv3_jax" / path).read_text())
  at_once = {name.split(".")[0] for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)
             for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                          else [node.module])}
  assert not at_once & {"transformers", "librosa", "sentencepiece"}
