"""What a command may end in: a message and nothing written, or what was asked for and nothing else.

- Exit code 2 with one to three lines on stderr, progress and warnings not counted, and no file made or
  changed; 1 with reasons where some of many failed; 0 with what was asked for, whole. No other code.
- No traceback, in no list of failures either; no end from outside; not longer than the time it is given.
- No temporary file stays, and whatever is no output stays as it was.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import os
import pathlib
import stat

from emv3_jax.io.video_files import read_video
from emv3_jax.jobs.report import read_report
from tests.fuzz.shell import Ended

LINES = 3


@dataclasses.dataclass(frozen=True)
class Case:
  """One input.

  Attributes:
    command: of `worker.COMMANDS`.
    arguments: as a shell would pass them.
    folder: what it runs in; its inputs lie there, and its outputs go there.
    outputs: files, and folders with all that is in them, that may be made or replaced.
    codes: that it may end with beside 2.
    whole: says what is wrong with what it made when it ended with 0 or 1, given that code and its stdout.
    notes: outputs that may be made with code 2 too.
  """

  command: str
  arguments: list[str]
  folder: pathlib.Path
  outputs: tuple[str, ...] = ()
  codes: tuple[int, ...] = (0,)
  whole: Callable[[int, str], str | None] = lambda code, stdout: None
  notes: tuple[str, ...] = ()


def look(folder: pathlib.Path) -> dict[str, str]:
  """What lies in a folder, by path: digests of files, targets of links."""
  found = {}
  for where, folders, files in os.walk(folder):
    for name in (*folders, *files):
      path = os.path.join(where, name)
      mode = os.lstat(path).st_mode
      if stat.S_ISREG(mode):
        found[path] = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
      elif stat.S_ISLNK(mode):
        found[path] = f"link to {os.readlink(path)}"
      else:
        found[path] = "folder" if stat.S_ISDIR(mode) else "no file"
  return found


def faults(case: Case, ended: Ended, before: dict[str, str], after: dict[str, str]) -> list[str]:
  """What is not as it should be; empty where all is."""
  found = [ended.how] if ended.how else []
  if "Traceback (most recent" in ended.stderr:
    found.append("a traceback")
  if ended.code is not None and ended.code not in (2, *case.codes):
    found.append(f"exit code {ended.code}")
  if ended.code == 2 and not 0 < len(ended.message) <= LINES:
    found.append(f"{len(ended.message)} lines of message: {ended.message[:6]}")
  if ended.code == 0 and ended.message:
    found.append(f"lines that are no progress: {ended.message[:3]}")
  if any(len(line) > 1500 for line in ended.message):
    found.append("a line of more than 1500 characters")
  allowed = case.notes if ended.code == 2 else (*case.outputs, *case.notes)
  for path in sorted(before.keys() | after.keys()):
    old, new = before.get(path), after.get(path)
    if old == new or new == "folder" and old is None:
      continue
    what = "is new" if old is None else "is gone" if new is None else "is changed"
    name = os.path.basename(path)
    if not _is_within(path, allowed) or old is None and (".part." in name or ".unfinished" in name):
      found.append(f"{path!a} {what}")
  if not found and ended.code in (0, 1):
    try:
      wrong = case.whole(ended.code, ended.stdout)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
      wrong = f"{type(error).__name__}: {error}"
    found += [f"what was made: {wrong}"] if wrong else []
  return found


def _is_within(path: str, places: tuple[str, ...]) -> bool:
  return any(path == place or path.startswith(place + os.sep) for place in places)


def is_clip(video: str | pathlib.Path) -> str | None:
  """What is wrong with a video and the report beside it."""
  video = pathlib.Path(video)
  report = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
  if report["video"]["bytes"] != video.stat().st_size:
    return f"{video} has not the size that its report tells"
  return None if len(read_video(video).frames) else f"{video} has no pictures"


def are_clips(folder: pathlib.Path, code: int) -> str | None:
  """What is wrong with the clips of a manifest, and with the reasons why others were not made."""
  entries = read_report(folder / "report.jsonl") if (folder / "report.jsonl").exists() else []
  failures = [entry for entry in entries if entry.status == "failed"]
  if bool(failures) != (code == 1):
    return f"exit code {code} with {len(failures)} failures"
  thrown = next((failure for failure in failures if failure.traceback), None)
  if thrown is not None:
    return f"line {thrown.line} failed with {thrown.reason}: {thrown.traceback}"
  names = {failure.name for failure in failures}
  made = [video for video in sorted(folder.glob("*.mp4")) if video.stem not in names]
  return next(filter(None, map(is_clip, made)), None)
