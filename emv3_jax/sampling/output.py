"""Writes what sampling made: the video, a JSON beside it, the latents on request."""

from collections.abc import Callable
import json
import os
import pathlib

import numpy as np

from emv3_jax import processes
from emv3_jax.errors import InputError
from emv3_jax.io import atomic, pixels, video_files
from emv3_jax.io.digests import file_digest_now
from emv3_jax.sampling.clip import Clip


def check_video_path(path: str | pathlib.Path) -> pathlib.Path:
  """Checks, before any work is done, that a video can be written at `path`.

  Raises:
    InputError: it does not end in .mp4, is a folder, or its folder cannot be written to.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() != ".mp4":
    raise InputError(f"--out={path} does not end in .mp4; only MP4 (H.264, AAC) is written.")
  if path.is_dir():
    raise InputError(f"--out={path} is a folder; name a file in it.")
  make_folder(path.parent)
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
  if not os.access(folder, os.W_OK):
    raise InputError(f"Output folder {folder} is not writable; choose another --out.")


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
    InputError: it cannot be written there, or the disk is full; nothing half-written stays.
  """
  if not processes.is_first():
    return
  video = check_video_path(video)
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
  try:
    report = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    report = None
  if not isinstance(report, dict):
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
