"""The pages of the documentation as text, and what they name."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"),
                *(ROOT / ".github").rglob("*.md")])


def code_blocks(page: str, language: str) -> list[str]:
  """What stands between fences of a language."""
  return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def dotted_names(page: str) -> list[str]:
  """Names of modules, classes and functions of the packages, in backticks."""
  return sorted(set(re.findall(r"`((?:emv3_jax|convert)(?:\.\w+)+)`", page)))
