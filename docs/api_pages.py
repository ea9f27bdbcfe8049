"""The pages of the API reference, one a room, from the files that the packages hold."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("emv3_jax", "convert")
# Libraries that a module may import and the environment of the documentation need not have.
OPTIONAL = ("diffusers", "tokamax", "torch", "transformers")


def modules(package: pathlib.Path) -> list[str]:
  """Dotted names of all modules below a package's folder, the package itself first."""
  found = []
  for path in sorted(package.rglob("*.py")):
    parts = path.relative_to(package.parent).with_suffix("").parts
    if parts[-1] != "__main__":
      found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
  return sorted(found)


def rooms(names: list[str]) -> dict[str, list[str]]:
  """Modules by the page they are on: the top, and each folder directly below it."""
  packages = {name.rpartition(".")[0] for name in names}
  pages: dict[str, list[str]] = {}
  for name in names:
    parts = name.split(".")
    room = ".".join(parts[:2])
    pages.setdefault(room if len(parts) > 2 or room in packages else parts[0], []).append(name)
  return pages


def page(room: str, names: list[str]) -> str:
  """The text of a room's page, reStructuredText."""
  lines = [room, "=" * len(room), ""]
  for name in names:
    if name != room:
      lines += [name, "-" * len(name), ""]
    lines += [f".. automodule:: {name}"]
    # Names that the package lends from its rooms are at home there: links lead to the rooms.
    lines += ["   :imported-members:", "   :no-index:"] if name == "emv3_jax" else []
    lines += [""]
  return "\n".join(lines)


def write(folder: pathlib.Path) -> None:
  """Writes the pages and their index; what is there and no longer true is removed."""
  pages = {room: page(room, names) for package in PACKAGES
           for room, names in rooms(modules(ROOT / package)).items()}
  title = "API reference"
  pages["index"] = "\n".join([title, "=" * len(title), "", ".. toctree::", "   :maxdepth: 1", "",
                              *(f"   {room}" for room in pages), ""])
  folder.mkdir(exist_ok=True)
  for path in folder.glob("*.rst"):
    if path.stem not in pages:
      path.unlink()
  for room, text in pages.items():
    path = folder / f"{room}.rst"
    if not path.exists() or path.read_text() != text:
      path.write_text(text)
