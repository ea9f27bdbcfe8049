"""What the pages name is there: functions, files, headings, versions."""

import pathlib
import pkgutil
import re

import pytest

import emv3_jax
from emv3_jax.data import records
from tests import test_layers
from tests.docs import pages
from tests.docs.pages import PAGES, ROOT

TITLE = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(path: pathlib.Path) -> set[str]:
  """Of a page's headings, as GitHub makes them."""
  text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
  plain = [re.sub(r"[^\w\- ]", "", title).strip().lower() for _, title in TITLE.findall(text)]
  return {title.replace(" ", "-") for title in plain}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
  for link in LINK.findall(path.read_text()):
    if re.match(r"https?:|mailto:", link):
      continue
    target, _, anchor = link.partition("#")
    file = (path.parent / target).resolve() if target else path
    assert file.exists(), f"{link}: no such file"
    assert not anchor or anchor in anchors(file), f"{link}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_backticks_import(path):
  for name in pages.dotted_names(path.read_text()):
    if name != records.SCHEMA:
      pkgutil.resolve_name(name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_in_backticks_are_there(path):
  for name in re.findall(r"`((?:emv3_jax|convert|configs|tests|scripts|docs)/[\w/.-]+)`", path.read_text()):
    written = name.startswith("docs/evidence/") or re.search(r"/[A-Z]+\.py$", name)  # by a command, by you
    assert written or (ROOT / name).exists(), name


def test_the_table_of_rooms_is_whole_and_in_order():
  text = (ROOT / "docs/architecture.md").read_text()
  table = text.partition("| room | holds |")[2].partition("\n\n")[0]
  named = [cell for row in table.splitlines()[2:] for cell in re.findall(r"`([^`]+)`", row.split("|")[1])]
  rooms = [pathlib.Path(name).stem for name in named]
  there = {path.stem for path in (ROOT / "emv3_jax").iterdir()
           if path.suffix == ".py" or path.is_dir() and any(path.glob("*.py"))} - {"__init__"}
  assert sorted(rooms) == sorted({*there, *test_layers.BESIDE})
  floors = [test_layers.FLOORS[room] for room in rooms]
  assert floors == sorted(floors), "a room stands above one that it may import"


def test_the_changelog_knows_this_version():
  titles = TITLE.findall((ROOT / "CHANGELOG.md").read_text())
  first, newest, *_ = [title for level, title in titles if level == "##"]
  assert first == "Unreleased"
  assert re.fullmatch(rf"{re.escape(emv3_jax.__version__)}( - \d{{4}}-\d\d-\d\d)?", newest)
