"""Paths of any kind, to read from and to write to; all that they make lies in the given folder."""

import os
import pathlib
import random

ADDRESSES = ("s3://bucket/x.png", "gs://b/x.mp4", "https://127.0.0.1:9/x.wav", "file:///etc/hostname",
             "hf://owner/name", "HTTP://127.0.0.1:9/x")
NOWHERE = ("", ".", "..", "/", "-", "~", "~/x.mp4", "/dev/null", "/dev/full", "/dev/zero", "/dev/null/x.mp4",
           "/proc/self/mem", "/proc/x.mp4", "pipe:0", "concat:a|b", "x\udcff.mp4", "a" * 300 + ".mp4",
           "/".join(["d" * 200] * 30) + "/x.mp4", "data:,x", "lavfi:testsrc", "*", "%d.png", "[0].wav",
           "a\nb\nc\nd\ne.mp4", "\u202egnp.x", "--", "owner/name", "owner/name@main", "COM1", " ")
_ODD = ("with space", "a:b", "%03d", "[a-z]", "{1}", "\udcff\udcfe", "line\nline", "ü", "u\u0308", "'q\"",
        "-dash", "a" * 200, "*", "?", "#", "a|b", "$HOME", "\\", "con.cat", ".hidden", "x,y", "x=y")


def source(good: pathlib.Path, rng: random.Random, pipe: bool = True) -> str:
  """A path to read: of `good` by another name or way, or of what cannot be read; perhaps of a pipe that
  nobody writes to (manifests may come through a pipe, so that there it is right to wait)."""
  folder, kind = good.parent, rng.randrange(12)
  if kind == 0:
    return rng.choice(ADDRESSES)
  if kind == 1:
    return rng.choice(NOWHERE)
  if kind == 2:
    return str(folder)
  if kind == 3:
    return str(good) + rng.choice(("/", "/x", ".absent", "\n", " ", "?x=1"))
  if kind == 4:
    return os.path.relpath(good, folder.parent) if rng.random() < 0.5 else f"{folder}//./{good.name}"
  other = folder / f"{rng.choice(_ODD)}{rng.randrange(10)}{good.suffix}"
  if kind == 5 and pipe:
    os.mkfifo(other)
  elif kind == 6:
    other.symlink_to(rng.choice((other.name, good.name, "absent", "/dev/zero", str(folder))))
  elif kind == 7 and good.is_file():
    os.link(good, other)
  elif kind == 8:
    other.mkdir()
  elif good.is_file():
    other.write_bytes(good.read_bytes())
  else:
    other.symlink_to(good, target_is_directory=True)
  return str(other)


def target(folder: pathlib.Path, name: str, inputs: list[pathlib.Path], rng: random.Random) -> str:
  """A path to write `name`: one that can be written, or where something else is."""
  kind, suffix = rng.randrange(14), pathlib.PurePath(name).suffix
  if kind == 0:
    return rng.choice(ADDRESSES)
  if kind == 1:
    return rng.choice([where for where in NOWHERE if not where.startswith("~")])
  if kind == 2 and inputs:  # an input, by some name
    read = rng.choice(inputs)
    other = folder / f"again{suffix}"
    if rng.random() < 0.5 and read.is_file():
      (os.link if rng.random() < 0.5 else os.symlink)(read, other)
      return str(other)
    return str(read)
  if kind == 3:
    return str(folder / "deep/er" / name)
  place = folder / f"{rng.choice(_ODD)}{suffix}"
  if kind == 4:
    os.mkfifo(place)
  elif kind == 5:
    place.symlink_to(rng.choice((place.name, "absent" + suffix, "/dev/full", "/dev/null")))
  elif kind == 6:
    place.mkdir()
    (place / "mine").write_text("kept")
  elif kind == 7:
    place.write_bytes(b"old")
  elif kind == 8:
    place.with_suffix(".json").write_bytes(rng.choice((b"{}", b"", b"mine", b"[" * 5000)))
  elif kind == 9:
    place.write_bytes(b"old")
    place = place / name
  elif kind == 10:
    return str(folder / rng.choice((name.upper(), pathlib.PurePath(name).stem, f"{name}.avi", f"{name}/")))
  elif kind == 11:
    return name  # in the folder that the command runs in
  return str(place)
