"""Manifests of jobs and of clips, with values of any kind in their lines."""

import codecs
import csv
import io
import json
import random

from tests.fuzz.damage import NAMES, VALUES, spoilt
from tests.fuzz.paths import ADDRESSES, NOWHERE

_VALUES = (*VALUES, 0.0, -1.5, 1.0, 10 ** 400, "auto", "none", "0,64,0,64", "1,2", "nan,0,1,2", "a.npy", "t2v",
           "i2v", "flf2v", "Lipsync", "a/b", "..", "x\0y", "\ud83d", "\u2028", "x" * 3000, [0, 64, 0, 64],
           [8.0, 26.0, 19.0, 45.0], [1, 2, 3], ["a"], {"a": {"b": 1}}, "a\nb", "é", "e\u0301")


def lines(good: list[dict], keys: list[str], rng: random.Random) -> list[dict]:
  """The good lines, some with values of any kind for these keys."""
  made = []
  for line in good:
    line = dict(line)
    for _ in range(rng.choice((0, 1, 1, 2))):
      key = rng.choice((*keys, *line, rng.choice(NAMES)))
      line[key] = rng.choice((rng.choice(_VALUES), rng.choice(_VALUES), rng.choice(NOWHERE + ADDRESSES)))
      if rng.random() < 0.15:
        del line[key]
    made.append(line)
  return made


def content(good: list[dict], keys: list[str], rng: random.Random) -> bytes:
  """The bytes of a manifest, in some encoding, damaged now and then."""
  texts = []
  for line in lines(good, keys, rng):
    text = json.dumps(line, ensure_ascii=rng.random() < 0.5)
    kind = rng.randrange(20)
    if kind == 0:
      text = text[:rng.randrange(len(text))]
    elif kind == 1 and len(text) > 2:  # a key twice
      text = text[:-1] + f", {text[1:-1]}" + "}"
    elif kind == 2:
      text = rng.choice(("[" * 5000, '{"a":' * 3000, "null", "[]", "NaN", "1" * 5000, '"x"', "{}", "{,}", "//"))
    texts.append(text)
  end = rng.choice(("\n", "\n", "\n", "\r\n", "\n\n", "\r", "\u2028"))
  data = end.join(texts).encode("utf-8", "surrogatepass")
  kind = rng.randrange(16)
  if kind == 0:
    data = codecs.BOM_UTF8 + data
  elif kind == 1:
    data = "\n".join(texts).encode("utf-16", "surrogatepass")
  elif kind == 2:
    data = "\n".join(texts).encode("latin-1", "replace")
  elif kind == 3:
    data = spoilt(data, rng)
  elif kind == 4:
    data = rng.choice((b"", b"\n\n", codecs.BOM_UTF8, b"\0" * 100, b"\xff\xfe", json.dumps(good).encode()))
  return data


def of_clips(good: list[dict], keys: list[str], rng: random.Random) -> tuple[str, bytes]:
  """Name and bytes of a manifest of clips in one of its forms."""
  if rng.random() < 0.5:
    return "clips.jsonl", content(good, keys, rng)
  names = {"video": rng.choice(("video", "file_path", "path")), "prompt": rng.choice(("prompt", "text", "caption"))}
  made = [{names.get(key, key): value for key, value in line.items()} for line in lines(good, keys, rng)]
  if rng.random() < 0.5:
    name, data = "clips.json", json.dumps(made, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
  else:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in made for key in line)))
    writer.writeheader()
    writer.writerows({key: _as_cell(value) for key, value in line.items()} for line in made)
    name, data = "clips.csv", text.getvalue().encode("utf-8", "surrogatepass")
  kind = rng.randrange(8)
  return name, codecs.BOM_UTF8 + data if kind == 0 else spoilt(data, rng) if kind == 1 else data


def _as_cell(value) -> str:
  return value if isinstance(value, str) else json.dumps(value)


def plain(good: list[dict]) -> bytes:
  return "".join(f"{json.dumps(line)}\n" for line in good).encode()
