"""How docstrings become reStructuredText, and which modules the API reference has."""

import importlib.util

import pytest

from tests.docs.pages import ROOT


def _of_docs(name: str):
  """A module of docs/, which is no package."""
  spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


docstrings, api_pages = _of_docs("docstrings"), _of_docs("api_pages")


@pytest.mark.parametrize("text, want", [
    ("of `name`s, a * b, x_", r"of ``name``\ s, a \* b, x\_"),
    ("2`F` tokens | `a*b`", r"2\ ``F`` tokens \| ``a*b``"),
    ("a lone ` tick", r"a lone \` tick")])
def test_backticks_alone_are_markup(text, want):
  assert docstrings.escaped(text) == want


def test_sections_become_lists_and_formulas_stand_as_they_are():
  lines = """One line.

  x = a * b

Args:
  x: float32 [b],
    in two lines.
  *rest, more: others.

Raises:
  InputError: it is wrong: so.""".splitlines()
  got = "\n".join(docstrings.rewritten(lines))
  assert "::\n\n  x = a * b\n" in got
  assert ":Arguments:\n  * ``x``: float32 [b], in two lines.\n  * ``*rest, more``: others.\n" in got
  assert ":Raises:\n  * ``InputError``: it is wrong: so.\n" in got


@pytest.mark.parametrize("lines, want", [
    (["  A function of the batch", "  that gives a mean."], ["  A function of the batch that gives a mean."]),
    (["  latents [b];", "  mask [b], 1", "    where known;"],
     ["  * latents [b];", r"  * mask [b], 1 where known;"])])
def test_what_is_returned_is_a_paragraph_or_a_list(lines, want):
  got = docstrings.rewritten(["Returns:", *lines])
  assert [line for line in got if line][1:] == want


def test_every_module_is_on_one_page(tmp_path):
  (tmp_path / "stale.rst").write_text("of a room that is gone")
  api_pages.write(tmp_path)
  text = "".join(path.read_text() for path in tmp_path.glob("*.rst"))
  files = [path for name in api_pages.PACKAGES for path in (ROOT / name).rglob("*.py")
           if path.name != "__main__.py"]
  assert text.count("automodule") == len(files) > 100
  for path in files:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    assert text.count(f"automodule:: {name}\n") == 1
  assert not (tmp_path / "stale.rst").exists()
  for path in tmp_path.glob("*.rst"):
    assert path.stem == "index" or f"   {path.stem}\n" in (tmp_path / "index.rst").read_text()
