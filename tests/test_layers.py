"""Imports run one way: networks know nothing of files, meshes or command lines."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Module or package -> floor; a module imports its own floor and lower ones. The longest name counts.
FLOORS = {
    "errors": 0, "limits": 0, "machine": 0, "start_up": 0, "processes": 0, "models": 1, "diffusion": 2, "tasks": 2, "io": 3,
    "model_config": 3, "config": 3,
    "conditioning": 4, "data": 4, "data.preparation": 5, "data.prepare": 6, "sharding": 4,
    "attention_backends": 3, "splash_attention": 3, "training": 5, "sampling": 5, "plan": 6,
    "command_line": 6, "program_cache": 6, "verify": 7,
}
OUTSIDE = {"verify"}  # a command line that compares with other people's code: it may import that
NETWORK_LIBRARIES = {"jax", "flax", "numpy", "jaxtyping", "emv3_jax"}
STANDARD = {"collections", "dataclasses", "functools", "math", "typing", "enum", "itertools"}


def imports(path: pathlib.Path) -> set[str]:
  """Dotted names that a file imports, `from a import b` as `a.b`."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def room(name: str) -> str | None:
  """The entry of FLOORS that a dotted name of this package belongs to."""
  parts = name.split(".")[1:] if name.startswith("emv3_jax.") else []
  rooms = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
  return next((found for found in rooms if found in FLOORS), rooms[-1] if rooms else None)


FILES = sorted(path for path in (ROOT / "emv3_jax").rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path):
  own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
  for name in imports(path):
    imported = room(name)
    if imported is not None:
      assert FLOORS[imported] <= FLOORS[own], f"{own} imports {name}"
    if own not in OUTSIDE:
      assert not name.startswith(("convert", "configs", "tests")), f"{own} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if "models" in path.parts],
                         ids=lambda path: path.stem)
def test_networks_are_pure(path):
  outside = {name.split(".")[0] for name in imports(path)} - NETWORK_LIBRARIES - STANDARD
  assert not outside, f"a network imports {outside}"


def test_core_needs_no_torch_or_tensorflow():
  for path in FILES:
    if path.relative_to(ROOT / "emv3_jax").parts[0] in OUTSIDE:
      continue
    heavy = {name.split(".")[0] for name in imports(path)} & {"torch", "tensorflow", "transformers"}
    assert not heavy, f"{path} imports {heavy}"
