"""The report of a run: one JSON object a line for each job, the last line the summary.

A run writes DIR/report.jsonl, a shard of a run DIR/report.0-of-8.jsonl; `merge` joins those of shards.
"""

from collections.abc import Iterable, Sequence
import contextlib
import dataclasses
import datetime
import json
import pathlib
import re
import time
from typing import Any

from absl import logging

from emv3_jax.errors import InputError
from emv3_jax.io import atomic

REPORT = "report.jsonl"
STATUSES = ("done", "skipped", "failed", "lost", "stopped")
WRITE_EVERY = 5.0  # seconds between two writes of a report that grows
_OF_SHARD = re.compile(r"report\.(\d+)-of-(\d+)\.jsonl")


@dataclasses.dataclass(frozen=True)
class Entry:
  """One job of a report.

  Attributes:
    line: line of the manifest, from 1.
    name: name of the output.
    status: `done`; `skipped`, done before or by another run; `failed`; `lost`, failed because its workers were
      lost too often; `stopped`, not made because the run was stopped.
    reason: why the job was not made, one or two lines.
    attempts: how often it was begun and came to an end, lost workers not counted.
    lost: how many workers were lost while they made it.
    seconds: seconds by part.
    total_seconds: seconds of the last attempt.
    seed: seed of the clip.
    host: machine that made the output.
    device: devices that made it.
    frames_sha256: sha256, in hex, of the decoded frames, before the video is compressed.
    sound_sha256: likewise of the sound.
    finished: time at which the job ended, ISO 8601 in UTC.
    traceback: of an unexpected error.
  """

  line: int
  name: str
  status: str
  reason: str = ""
  attempts: int = 0
  lost: int = 0
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  total_seconds: float = 0.0
  seed: int | None = None
  host: str = ""
  device: str = ""
  frames_sha256: str = ""
  sound_sha256: str = ""
  finished: str = ""
  traceback: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Numbers of jobs by status; `total_seconds` are those of the run."""

  done: int = 0
  skipped: int = 0
  failed: int = 0
  lost: int = 0
  stopped: int = 0
  total_seconds: float = dataclasses.field(default=0.0, compare=False)

  @property
  def complete(self) -> bool:
    """Whether all outputs are there."""
    return not (self.failed or self.lost or self.stopped)

  def __str__(self) -> str:
    told = [f"{self.done} done, {self.skipped} skipped as done before, {self.failed} failed"]
    told += [f"{self.lost} lost with their workers"] if self.lost else []
    told += [f"{self.stopped} not made"] if self.stopped else []
    return ", ".join(told)


def now() -> str:
  """Returns the time as reports have it."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Report:
  """The report of one run, kept in memory and written as a whole.

  Args:
    path: file of the report; None writes none. What it says of the machines of jobs that are skipped is kept.

  Raises:
    InputError: `path` is a file of another kind.
  """

  def __init__(self, path: pathlib.Path | None):
    self.path, self.entries, self._began = path, dict[int, Entry](), time.monotonic()
    self._written = self._began
    self._before = _made(path)

  def add(self, entry: Entry) -> None:
    """Adds the entry of a job, and writes the report if it was not for `WRITE_EVERY` seconds."""
    self.entries[entry.line] = self._with_machine(entry)
    if time.monotonic() - self._written > WRITE_EVERY:
      self.write()

  def finish(self) -> None:
    """Writes the report with what another run that ended meanwhile says of the machines of its jobs."""
    with contextlib.suppress(InputError):
      self._before = _made(self.path)
    self.entries = {line: self._with_machine(entry) for line, entry in self.entries.items()}
    self.write()

  def _with_machine(self, entry: Entry) -> Entry:
    before = self._before.get((entry.line, entry.name))
    if entry.status != "skipped" or before is None:
      return entry
    kept = {name: getattr(before, name) for name in ("host", "attempts", "lost", "total_seconds", "finished")}
    return dataclasses.replace(entry, **kept)

  def write(self) -> None:
    """Writes the report; if that fails, a warning is logged and the run goes on."""
    begin = time.monotonic()
    if self.path is not None:
      try:
        write_report(self.path, self.entries.values(), self.outcome())
      except (InputError, OSError) as error:
        logging.warning("%s cannot be written: %s", self.path, error)
    self._written = time.monotonic() + 20 * (time.monotonic() - begin)  # long reports are written more rarely

  def outcome(self) -> Outcome:
    """Counts jobs by status."""
    return _counted(self.entries.values(), time.monotonic() - self._began)


def _made(path: pathlib.Path | None) -> dict[tuple[int, str], Entry]:
  """Returns the outputs that are there according to a report, by line and name."""
  known = read_report(path) if path is not None and path.exists() else []
  return {(entry.line, entry.name): entry for entry in known if entry.status in ("done", "skipped")}


def _counted(entries: Iterable[Entry], seconds: float) -> Outcome:
  statuses = [entry.status for entry in entries]
  return Outcome(**{status: statuses.count(status) for status in STATUSES}, total_seconds=round(seconds, 2))


def write_report(path: pathlib.Path, entries: Iterable[Entry], outcome: Outcome) -> None:
  """Writes a report, atomically, in the order of lines.

  Raises:
    InputError: the file cannot be written.
  """
  ordered = sorted(entries, key=lambda entry: (entry.line, entry.name))
  lines = [dataclasses.asdict(entry) for entry in ordered]
  lines.append({"summary": dataclasses.asdict(outcome)})
  with atomic.atomic_file(path) as temporary:
    temporary.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines),
                         encoding="utf-8", errors="backslashreplace")


def read_report(path: str | pathlib.Path) -> list[Entry]:
  """Reads the entries of a report.

  Raises:
    InputError: the file cannot be read, or is no report.
  """
  try:
    lines = [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
    return [_entry(line) for line in lines if "summary" not in line]
  except OSError as error:
    raise InputError(f"Report {path} cannot be read: {error.strerror}.") from None
  except (ValueError, TypeError, AttributeError, RecursionError) as error:
    raise InputError(f"{path} is no report of a run ({error}); move it, or choose another --out.") from None


def _entry(line: Any) -> Entry:
  known = {field.name for field in dataclasses.fields(Entry)}
  entry = Entry(**{name: value for name, value in line.items() if name in known})
  if entry.status not in STATUSES or not isinstance(entry.line, int):
    raise ValueError(f"status {entry.status!r}")
  return entry


def path_of(folder: pathlib.Path, shard: tuple[int, int] | None) -> pathlib.Path:
  """Returns the path of the report of a run, or of shard (index, count) of one."""
  return folder / (REPORT if shard is None else f"report.{shard[0]}-of-{shard[1]}.jsonl")


def merge(folder: str | pathlib.Path) -> Outcome:
  """Joins the reports of the shards in `folder` to report.jsonl.

  Raises:
    InputError: there is no report of a shard, one is missing, or they are of different numbers of shards.
  """
  begin, folder = time.monotonic(), pathlib.Path(folder)
  found = {(int(match[1]), int(match[2])): path for path in _listed(folder)
           if (match := _OF_SHARD.fullmatch(path.name))}
  counts = sorted({count for _, count in found})
  if not counts:
    raise InputError(f"{folder} has no report of a shard (report.0-of-8.jsonl); run with --shard=0/8 first.")
  if len(counts) > 1:
    raise InputError(f"{folder} has reports of {' and of '.join(map(str, counts))} shards; remove those that are "
                     "not of this run.")
  missing = [index for index in range(counts[0]) if (index, counts[0]) not in found]
  if missing:
    raise InputError(f"{folder} has no report of shard {_enumerated(missing)} of {counts[0]}; run it first.")
  entries = {entry.line: entry for path in found.values() for entry in read_report(path)}
  outcome = _counted(entries.values(), time.monotonic() - begin)
  if (folder / REPORT).exists():
    read_report(folder / REPORT)  # it may be a file of another kind
  write_report(folder / REPORT, entries.values(), outcome)
  return outcome


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    return sorted(folder.iterdir())
  except OSError as error:
    raise InputError(f"Output folder {folder} cannot be read: {error.strerror}.") from None


def _enumerated(numbers: Sequence[int]) -> str:
  return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
