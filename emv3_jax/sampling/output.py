"""Writes a sampled clip: the video, its report (a JSON file beside it), and optionally the latents."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import hashlib
import itertools
import json
import os
import pathlib
import re

from absl import logging
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io import atomic, paths, pixels, video_files
from emv3_jax.io.digests import file_digest_now
from emv3_jax.metrics import clip_metrics, plot
from emv3_jax.metrics.frame_curves import FrameCurves
from emv3_jax.runtime import processes
from emv3_jax.sampling.clip import Clip
from emv3_jax.sampling.streaming import Stream

# Text at which a JSON parser fails if the file was truncated within a value.
_TRUNCATED_VALUE = re.compile(r"u[0-9a-f]{0,4}|[-.]?|tr?u?|fa?l?s?|nu?l?")


def check_video_path(path: str | pathlib.Path, inputs: Iterable[str | os.PathLike] = (), *,
                     growing: bool = False) -> pathlib.Path:
  """Checks that a clip can be written at `path`, and creates its folder.

  Args:
    path: of the video; report and latents are written beside it.
    inputs: input files, which must not be replaced.
    growing: whether the video has its `partial_path` while it grows.

  Raises:
    InputError: the path is an address, does not end in .mp4, or its name is too long; a folder, a device
      or one of `inputs` has the same path; its folder cannot be written to; the JSON file beside it is
      neither a report nor a truncated report.
  """
  paths.refuse_address(path, "Output")
  path, inputs = pathlib.Path(path), list(inputs)
  if path.suffix.lower() != ".mp4":
    raise InputError(f"Output {path} does not end in .mp4; only MP4 (H.264, AAC) is written.")
  make_folder(path.parent)
  for file in (*paths_of(path), *([partial_path(path)] if growing else [])):
    paths.check_output(file, inputs)
  report = report_path(path)
  if report.exists() and not is_report(report) and not is_truncated_report(video=path):
    raise InputError(f"{report} is in the way: it is not the report of a clip and would be replaced; move it, "
                     "or choose another name.")
  return path


def make_folder(folder: pathlib.Path) -> None:
  """Creates an output folder.

  Raises:
    InputError: it cannot be created or written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"Output folder {folder} cannot be created: {error.strerror}; "
                     "choose another --out.") from error
  paths.check_folder(folder)


def is_report(path: pathlib.Path) -> bool:
  """Returns whether a file is a report that `write` wrote beside a video, of this or an earlier version."""
  report = read_report(path)
  return report is not None and "config" in report and bool({"fingerprint", "request"} & report.keys())


def is_truncated_report(video: pathlib.Path) -> bool:
  """Returns whether the JSON file beside an existing video is empty or truncated JSON.

  A full disk or a crash of the machine leaves such a file, and it may be replaced. Complete JSON, other
  text, and any file without a video beside it belong to the user.
  """
  content, text = b"", ""
  try:
    content = report_path(video).read_bytes().strip(b"\0 \t\r\n") if video.is_file() else b"own"
    text = content.decode()
    json.loads(text)
  except json.JSONDecodeError as error:
    cut = _TRUNCATED_VALUE.fullmatch(text[error.pos:]) or error.msg.startswith("Unterminated string")
    return not content or content.startswith(b"{") and bool(cut)
  except (OSError, ValueError, RecursionError):
    return False
  return False


def read_report(path: pathlib.Path) -> dict | None:
  """Reads a JSON object; returns None if the file holds none."""
  try:
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
  except (OSError, ValueError, RecursionError):
    return None
  return report if isinstance(report, dict) else None


def paths_of(video: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Returns all files that may be written for a video, the longest name first."""
  return *metrics_paths(video), latents_path(video), report_path(video), video


def report_path(video: pathlib.Path) -> pathlib.Path:
  """Returns the path of a video's report."""
  return video.with_suffix(".json")


def metrics_paths(video: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the paths of a video's metrics: figures and curves as JSON, and their plot."""
  return video.with_suffix(".curves.json"), video.with_suffix(".curves.png")


def partial_path(video: pathlib.Path) -> pathlib.Path:
  """Returns the path of a video that plays while it grows."""
  return video.with_suffix(".partial.mp4")


def latents_path(video: pathlib.Path) -> pathlib.Path:
  """Returns the path of a video's latents."""
  return video.with_suffix(".latents.npy")


def write(clip: Clip | Stream, video: str | pathlib.Path, *, save_latents: bool = False, growing: bool = False,
          metrics: bool = False) -> None:
  """Writes a clip as an MP4 file with sound and metadata, and its report beside it.

  A stream is sampled and written group by group. Nothing is written or removed before its first frames are there.
  The written pictures are larger than the sampled ones by the factor `enlarge` of the clip's settings. The report
  is written last and holds sizes and digests of the other files: if it exists, they are complete. With several
  processes every one calls this with its stream, and process 0 writes.

  Args:
    clip: from `sample` or `stream`.
    video: path that ends in .mp4; its folder is created if missing.
    save_latents: also write the latents, as .latents.npy.
    growing: write the video as .partial.mp4, which plays while it grows, and rename it at the end.
    metrics: also write `clip_metrics.measure` of the sampled frames, as .curves.json and .curves.png.

  Raises:
    InputError: the clip cannot be written there (see `check_video_path`), or the disk is full; no partial
      file stays but that of `growing`.
  """
  groups = iter(clip) if isinstance(clip, Stream) else iter([clip.frames])
  if not processes.is_first():
    collections.deque(groups, maxlen=0)
    return
  try:
    _write(clip, groups, video, save_latents, growing, metrics)
  except InputError:
    if processes.is_distributed():  # the others go on to the last group, and wait for this process in each
      collections.deque(groups, maxlen=0)
    raise


def _write(clip: Clip | Stream, groups: Iterator[np.ndarray], video: str | pathlib.Path, save_latents: bool,
           growing: bool, metrics: bool) -> None:
  report = clip.report
  request = report.get("request", {})
  video = check_video_path(video, [request[name] for name in report.get("files", ())], growing=growing)
  enlarge = report["config"]["sampling"]["enlarge"]
  metadata = {"synthetic": True, "model": report["config"]["name"], "seed": report["seed"], "generator": "emv3-jax"}
  begun = next(groups)
  _remove_report(video)
  if not save_latents:
    latents_path(video).unlink(missing_ok=True)  # of an earlier clip
  _remove_metrics(video)
  curves = FrameCurves()
  groups = itertools.chain([begun], groups)
  groups = _observed(groups, curves) if metrics else groups
  content = {"frames": hashlib.sha256(), "sound": hashlib.sha256(np.ascontiguousarray(clip.sound[0]).data)}
  frames = _digested((frame for group in groups for frame in pixels.enlarged(group, enlarge)), content["frames"])
  options = {"fps": clip.fps, "audio": clip.sound, "metadata": metadata}
  if growing:
    try:
      video_files.grow_video(video, partial_path(video), frames, **options)
    except BaseException:
      logging.warning("%s has the pictures so far, and plays.", partial_path(video))
      raise
  else:
    video_files.write_video(video, frames, **options)
  written = {"video": video}
  if save_latents:
    written["latents"] = latents_path(video)
    with atomic.atomic_file(latents_path(video)) as temporary, open(temporary, "wb") as file:
      np.save(file, clip.latents)
  if metrics:
    _write_metrics(video, clip_metrics.measure(curves.curves(), clip.overlaps, clip.fps), clip.overlaps)
  digests = {name: digest.hexdigest() for name, digest in content.items()}
  atomic.write_json(report_path(video), {**clip.report, "content": digests, **{
      name: {"bytes": path.stat().st_size, "sha256": file_digest_now(path)}
      for name, path in written.items()}})


def _digested(frames: Iterable[np.ndarray], digest) -> Iterator[np.ndarray]:
  for frame in frames:
    digest.update(np.ascontiguousarray(frame))
    yield frame


def _observed(groups: Iterable[np.ndarray], curves: FrameCurves) -> Iterator[np.ndarray]:
  for group in groups:
    curves.observe(group)
    yield group


def _write_metrics(video: pathlib.Path, found: dict, overlaps: Sequence[tuple[int, int]]) -> None:
  table, picture = metrics_paths(video)
  with atomic.atomic_file(picture) as temporary:
    plot.draw(found, overlaps).save(temporary)
  atomic.write_json(table, found)


def _remove_metrics(video: pathlib.Path) -> None:
  """Removes metrics of an earlier clip; another file of the same name stays."""
  if "colour_drift" in (read_report(metrics_paths(video)[0]) or {}):
    for path in metrics_paths(video):
      path.unlink(missing_ok=True)


def _remove_report(video: pathlib.Path) -> None:
  """Removes the report of the clip that is about to be replaced."""
  if report_path(video).exists() and is_truncated_report(video):
    logging.warning("%s was empty or truncated; it is written again with its clip.", report_path(video))
  try:
    report_path(video).unlink(missing_ok=True)
  except OSError as error:
    raise InputError(f"{report_path(video)} is in the way ({error.strerror}); remove it.") from error


def reason_to_make(video: pathlib.Path, fingerprint: Callable[[], str], *,
                   save_latents: bool = False, verify: bool = False) -> str | None:
  """Returns why the clip of a job has to be sampled; None if it exists, is complete, and matches the job.

  Args:
    video: path of the clip, whether it exists or not.
    fingerprint: returns the fingerprint of the job; called only if there is a report to compare with.
    save_latents: whether the latents are required too.
    verify: whether to compare digests of the files; otherwise only their sizes.

  Raises:
    InputError: raised by `fingerprint`.
  """
  path = report_path(video)
  if not path.exists():
    return f"there is no {path.name}"
  report = read_report(path)
  if report is None:
    return f"{path.name} cannot be read"
  if "fingerprint" not in report:
    return f"{path.name} has no fingerprint (version 0.1 wrote none)"
  if report["fingerprint"] != fingerprint():
    return "its inputs, settings or networks have changed"
  files = {"video": video} | ({"latents": latents_path(video)} if save_latents else {})
  for name, file in files.items():
    if not file.is_file():
      return f"there is no {file.name}"
    if not _is_as_written(file, report.get(name), verify):
      return f"{file.name} is not as it was written"
  return None


def _is_as_written(file: pathlib.Path, written: dict | None, verify: bool) -> bool:
  if not isinstance(written, dict) or file.stat().st_size != written.get("bytes"):
    return False
  return not verify or file_digest_now(file) == written.get("sha256")
