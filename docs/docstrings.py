"""From the docstrings of this code, which are plain text, to what Sphinx reads.

Backticks are code, indented paragraphs are shown as they stand, sections are named as Google names
them; nothing else is markup: `*`, `_` and `|` are letters.
"""

from collections.abc import Iterator
import re

SECTIONS = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises",
            "Returns": "Returns", "Yields": "Yields"}
_CODE = re.compile(r"(`[^`]+`)")
_ENTRY = re.compile(r"([\w*.]+(?:, [\w*.]+)*): ")  # `name: `, `a, b: `


def process(app, what, name, obj, options, lines: list[str]) -> None:
  """Rewrites a docstring in place; called by autodoc."""
  lines[:] = rewritten(lines)


def rewritten(lines: list[str]) -> list[str]:
  """Lines of reStructuredText, from lines of a docstring whose margin is 0."""
  lines = [line.rstrip() for line in lines]
  result, i = [], 0
  while i < len(lines):
    end = _end(lines, i + 1)
    if lines[i].endswith(":") and lines[i][:-1] in SECTIONS:
      result += ["", f":{SECTIONS[lines[i][:-1]]}:", *_section(lines[i + 1:end]), ""]
    elif lines[i].startswith(" "):
      result += ["", "::", "", *lines[i:end], ""]
    else:
      end = i + 1
      result.append(escaped(lines[i]))
    i = end
  return result


def _end(lines: list[str], start: int) -> int:
  """Where the indented lines from `start` end; empty ones among them belong to them."""
  end = start
  while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
    end += 1
  while end > start and not lines[end - 1]:
    end -= 1
  return end


def _section(lines: list[str]) -> Iterator[str]:
  """The entries of a section as a list; what has no entries is a paragraph."""
  margin = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
  entries, bullet = [], False
  for line in lines:
    line = line[margin:]
    ended = not entries or entries[-1][-1].endswith(";")
    if line and not line.startswith(" ") and (_ENTRY.match(line) or ended):
      bullet = bullet or bool(_ENTRY.match(line)) or bool(entries)
      entries.append([line])
    elif line:
      entries[-1].append(line.strip())
  for entry in entries:
    text = " ".join(entry)
    named = _ENTRY.match(text)
    if named:
      text = f"`{named[1]}`: {text[named.end():]}"
    yield "  " + ("* " if bullet else "") + escaped(text)


def escaped(text: str) -> str:
  """Text whose only markup is code in backticks."""
  parts = _CODE.split(text)
  parts[::2] = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2]]
  for i in range(1, len(parts), 2):
    parts[i] = f"``{parts[i][1:-1]}``"
    # Code has to be apart from letters beside it: `F`s, 2`F`.
    if parts[i - 1][-1:].isalnum():
      parts[i - 1] += r"\ "
    if parts[i + 1][:1].isalnum():
      parts[i + 1] = r"\ " + parts[i + 1]
  return "".join(parts)
