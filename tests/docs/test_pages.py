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
# History names what is gone.
NOW = [path for path in PAGES if path.name not in ("CHANGELOG.md", "changelog.md")]
# Whatever tells a reader which command to give.
COMMANDS = [*NOW, *sorted(path for folder in ("configs", "scripts", "emv3_jax")
                            for path in (ROOT / folder).rglob("*.*") if path.suffix in (".py", ".sh"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")

each_page = pytest.mark.parametrize("path", NOW, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(path: pathlib.Path) -> set[str]:
  """Of a page's headings, as GitHub makes them."""
  text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
  plain = [re.sub(r"[^\w\- ]", "", title).strip().lower() for _, title in TITLE.findall(text)]
  return {title.replace(" ", "-") for title in plain}


@each_page
def test_links_lead_somewhere(path):
  for link in LINK.findall(path.read_text()):
    if re.match(r"https?:|mailto:", link):
      continue
    target, _, anchor = link.partition("#")
    file = (path.parent / target).resolve() if target else path
    assert file.exists(), f"{link}: no such file"
    assert not anchor or anchor in anchors(file), f"{link}: no such heading"


@each_page
def test_names_in_backticks_import(path):
  for name in pages.dotted_names(path.read_text()):
    if name != records.SCHEMA:
      pkgutil.resolve_name(name)


@each_page
def test_files_in_backticks_are_there(path):
  """From the root, or within the package; a bare name anywhere."""
  for name in re.findall(r"`([\w/.-]+\.py|(?:emv3_jax|convert|configs|tests|scripts|docs)/[\w/.-]+)[`:, ]",
                         path.read_text()):
    if name.startswith("docs/evidence/") or re.search(r"(^|/)[A-Z]+\.py$", name):
      continue  # written by a command, or by you
    there = (ROOT / name).exists() or (ROOT / "emv3_jax" / name).exists()
    assert there or "/" not in name and next(ROOT.glob(f"[!.]*/**/{name}"), None), name


def test_what_the_paper_map_names_is_in_its_files():
  text, found = (ROOT / "docs/paper_map.md").read_text(), 0
  for line in text.splitlines():
    folder = pathlib.Path()
    for name, things in re.findall(r"`([\w/]+\.py)(?:: ([\w., ]+))?`", line):
      if name.startswith("tests/") or name.startswith("test_"):
        continue
      folder = pathlib.Path(name).parent if "/" in name else folder  # a bare name is in the same one
      file = ROOT / "emv3_jax" / folder / pathlib.Path(name).name
      code = file.read_text()
      for thing in filter(None, re.split(r"[., ]+", things)):
        assert re.search(rf"^ *(def|class) {thing}\b|^ *{thing}\b.* = ", code, re.MULTILINE), (name, thing)
        found += 1
  assert found > 15


def test_modules_that_are_run_are_programs():
  found = {(path, name) for path in COMMANDS for name in re.findall(
      r"(?:python3?|\$python) -m ((?:emv3_jax|convert|benchmarks|scripts|tests)[\w.]*)",
      path.read_text())}
  files = [(path, ROOT.joinpath(*name.rstrip(".").split("."))) for path, name in found]
  assert len(files) > 30
  gone = [(path, file) for path, file in files
          if not (file / "__main__.py").exists() and not file.with_suffix(".py").exists()]
  assert not gone


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
