"""Writes what sampling made: the video, a JSON beside it, the latents on request."""

import json
import os
import pathlib

import numpy as np

from emv3_jax import processes
from emv3_jax.errors import InputError
from emv3_jax.io import atomic, pixels, video_files
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


def write(clip: Clip, video: str | pathlib.Path, *, digest: str = "",
          save_latents: bool = False, enlarge: int = 1) -> None:
  """Writes `clip` as an MP4 with its sound and metadata, and a JSON beside it.

  The JSON comes last: where it is, the rest is whole. Of several processes the first one writes.

  Args:
    clip: from `sample`.
    video: path that ends in .mp4; its folder is made where absent.
    digest: identifies the job, kept in the JSON.
    save_latents: also write the latents, as .latents.npy.
    enlarge: whole factor by which the pictures are written larger than they were made.

  Raises:
    InputError: it cannot be written there, or the disk is full; nothing half-written stays.
  """
  if not processes.is_first():
    return
  video = check_video_path(video)
  metadata = {"synthetic": True, "model": clip.report["config"]["name"],
              "seed": clip.report["seed"], "generator": "emv3-jax"}
  if save_latents:
    with atomic.atomic_file(video.with_suffix(".latents.npy")) as temporary:
      with open(temporary, "wb") as file:
        np.save(file, clip.latents)
  else:
    video.with_suffix(".latents.npy").unlink(missing_ok=True)  # of another clip, made before
  video_files.write_video(video, pixels.enlarged(clip.frames, enlarge), fps=clip.fps,
                          audio=clip.sound, metadata=metadata)
  atomic.write_json(report_path(video), {**clip.report, "digest": digest})


def is_done(video: pathlib.Path, digest: str) -> bool:
  """Whether `video` is there, whole, and came from the job with this digest."""
  try:
    report = json.loads(report_path(video).read_text())
  except (OSError, json.JSONDecodeError):
    return False
  return video.is_file() and report.get("digest") == digest
