"""Writes what sampling made: the video, a JSON beside it, the latents on request."""

from collections.abc import Callable, Iterable
import json
import os
import pathlib
import re

from absl import logging
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io import atomic, paths, pixels, video_files
from emv3_jax.io.digests import file_digest_now
from emv3_jax.runtime import processes
from emv3_jax.sampling.clip import Clip

# What a parser finds in the way at the end of JSON that was cut within a value.
_CUT = re.compile(r"u[0-9a-f]{0,4}|[-.]?|tr?u?|fa?l?s?|nu?l?")


def check_video_path(path: str | pathlib.Path,
                     inputs: Iterable[str | os.PathLike] = ()) -> pathlib.Path:
  """Checks, before any work is done, that a clip can be written at `path`; makes the folder.

  Args:
    path: of the video; a JSON and latents go beside it.
    inputs: files that are read.

  Raises:
    InputError: it is an address, does not end in .mp4, or its name is too long; a folder, a device
      or one of `inputs` is there; its folder cannot be written to; the JSON beside it is no report, nor
      what is left of one.
  """
  paths.refuse_address(path, "Output")
  path, inputs = pathlib.Path(path), list(inputs)
  if path.suffix.lower() != ".mp4":
    raise InputError(f"Output {path} does not end in .mp4; only MP4 (H.264, AAC) is written.")
  make_folder(path.parent)
  for file in paths_of(path):
    paths.check_output(file, inputs)
  report = report_path(path)
  if report.exists() and not is_report(report) and not is_truncated_report(video=path):
    raise InputError(f"{report} is in the way: it is no report of a clip, and would be replaced; move it, "
                     "or choose another name.")
  return path


def make_folder(folder: pathlib.Path) -> None:
  """Makes an output folder.

  Raises:
    InputError: it cannot be made or written to.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"Output folder {folder} cannot be made: {error.strerror}; "
                     "choose another --out.") from error
  paths.check_folder(folder)


def is_report(path: pathlib.Path) -> bool:
  """Whether a file is the JSON that `write` puts beside a video, of this version or an earlier one."""
  report = _read_report(path)
  return report is not None and "config" in report and bool({"fingerprint", "request"} & report.keys())


def is_truncated_report(video: pathlib.Path) -> bool:
  """Whether the JSON beside a video that is there is empty, or JSON whose end is missing: what a disk that was
  full or a machine that went off leaves of a report. It tells nobody anything. Whole JSON, text of another form,
  and whatever has no video beside it is somebody's own.
  """
  try:
    content = report_path(video).read_bytes().strip(b"\0 \t\r\n") if video.is_file() else b"own"
    text = content.decode()
    json.loads(text)
  except json.JSONDecodeError as error:
    cut = _CUT.fullmatch(text[error.pos:]) or error.msg.startswith("Unterminated string")
    return not content or content.startswith(b"{") and bool(cut)
  except (OSError, ValueError, RecursionError):
    return False
  return False


def _read_report(path: pathlib.Path) -> dict | None:
  """A JSON object; None where there is none."""
  try:
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
  except (OSError, ValueError, RecursionError):
    return None
  return report if isinstance(report, dict) else None


def paths_of(video: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """All that may be written for a video, the longest name first."""
  return latents_path(video), report_path(video), video


def report_path(video: pathlib.Path) -> pathlib.Path:
  """The JSON beside a video."""
  return video.with_suffix(".json")


def latents_path(video: pathlib.Path) -> pathlib.Path:
  """The latents beside a video, where they were asked for."""
  return video.with_suffix(".latents.npy")


def write(clip: Clip, video: str | pathlib.Path, *, save_latents: bool = False) -> None:
  """Writes `clip` as an MP4 with its sound and metadata, and a JSON beside it.

  Pictures are written larger than they were made by the factor `enlarge` of the clip's settings.
  The JSON comes last and says what was written: where it is, the rest is whole. Of several processes
  the first one writes.

  Args:
    clip: from `sample`.
    video: path that ends in .mp4; its folder is made where absent.
    save_latents: also write the latents, as .latents.npy.

  Raises:
    InputError: it cannot be written there (see `check_video_path`), or the disk is full; nothing
      half-written stays.
  """
  if not processes.is_first():
    return
  request = clip.report.get("request", {})
  video = check_video_path(video, [request[name] for name in clip.report.get("files", ())])
  enlarge = clip.report["config"]["sampling"]["enlarge"]
  metadata = {"synthetic": True, "model": clip.report["config"]["name"],
              "seed": clip.report["seed"], "generator": "emv3-jax"}
  _remove_report(video)
  written = {"video": video}
  if save_latents:
    written["latents"] = latents_path(video)
    with atomic.atomic_file(latents_path(video)) as temporary:
      with open(temporary, "wb") as file:
        np.save(file, clip.latents)
  else:
    video.with_suffix(".latents.npy").unlink(missing_ok=True)  # of another clip, made before
  video_files.write_video(video, pixels.enlarged(clip.frames, enlarge), fps=clip.fps,
                          audio=clip.sound, metadata=metadata)
  atomic.write_json(report_path(video), {**clip.report, **{
      name: {"bytes": path.stat().st_size, "sha256": file_digest_now(path)}
      for name, path in written.items()}})


def _remove_report(video: pathlib.Path) -> None:
  """What it tells of is about to be replaced."""
  if report_path(video).exists() and is_truncated_report(video):
    logging.warning("%s was empty or cut short; it is written anew with its clip.", report_path(video))
  try:
    report_path(video).unlink(missing_ok=True)
  except OSError as error:
    raise InputError(f"{report_path(video)} is in the way ({error.strerror}); remove it.") from error


def reason_to_make(video: pathlib.Path, fingerprint: Callable[[], str], *,
                   save_latents: bool = False, verify: bool = False) -> str | None:
  """Why the clip of a job has to be made; None when it is there, whole, and that of the job.

  Args:
    video: where it is or would be.
    fingerprint: gives the job's; called where there is a report to compare it with.
    save_latents: its latents are wanted too.
    verify: read what is there to the last byte; otherwise its size is enough.

  Raises:
    InputError: from `fingerprint`.
  """
  path = report_path(video)
  if not path.exists():
    return f"there is no {path.name}"
  report = _read_report(path)
  if report is None:
    return f"{path.name} cannot be read"
  if "fingerprint" not in report:
    return f"{path.name} has no fingerprint (version 0.1 wrote none)"
  if report["fingerprint"] != fingerprint():
    return "its inputs, settings or networks are others now"
  wanted = {"video": video} | ({"latents": latents_path(video)} if save_latents else {})
  for name, file in wanted.items():
    if not file.is_file():
      return f"there is no {file.name}"
    if not _is_as_written(file, report.get(name), verify):
      return f"{file.name} is not as it was written"
  return None


def _is_as_written(file: pathlib.Path, written: dict | None, verify: bool) -> bool:
  if not isinstance(written, dict) or file.stat().st_size != written.get("bytes"):
    return False
  return not verify or file_digest_now(file) == written.get("sha256")
