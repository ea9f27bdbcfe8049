"""Shapes of clips that are not made yet, so that jobs of one shape can follow each other.

Shapes are read from the headers of files, in which no frame is decoded, and decide the order of jobs alone.
"""

from collections.abc import Hashable, Sequence
import functools
import math
import os

import av
from av.error import FFmpegError
from PIL import Image

from emv3_jax import geometry, tasks
from emv3_jax.conditioning import image as image_lib
from emv3_jax.io.containers import open_container
from emv3_jax.jobs.manifest import Job
from emv3_jax.sampling.settings import Config, Request


def of_jobs(jobs: Sequence[Job], config: Config) -> dict[int, Hashable]:
  """Returns the shape of the clip of each job by line, None where the headers do not tell it."""
  return {job.line: None if job.fault else shape(job.to_make, config) for job in jobs}


def shape(request: Request, config: Config) -> tuple | None:
  """Estimates (task, height, width, frames of a window) of a clip; None where the headers do not tell it."""
  try:
    seconds = _seconds(*_version(request.audio))
    size = _size(request, config)
  except (OSError, ValueError, ArithmeticError, FFmpegError, Image.DecompressionBombError):
    return None
  if seconds is None or size is None:
    return None
  if request.seconds is not None:
    seconds = min(seconds, request.seconds)
  settings = config.settings
  frames = geometry.sample_frames(max(1, math.ceil(seconds * geometry.FPS)))
  if frames > settings.max_frames:  # a long clip is made of windows
    frames = settings.long.window_frames(settings.max_frames)
  return request.task, *size, frames


def _size(request: Request, config: Config) -> tuple[int, int] | None:
  settings = config.settings
  if settings.height:
    return settings.height, settings.width
  inputs = tasks.of(request.task).condition_inputs
  if not inputs:
    return None
  path = getattr(request, inputs[0].request_field)
  found = (_size_of_video if inputs[0].request_field == "video" else _size_of_picture)(*_version(path))
  return None if found is None else image_lib.sample_size(*found, settings.max_area)


def _version(path: str | os.PathLike) -> tuple[str, int, int]:
  status = os.stat(path)
  return os.fspath(path), status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=65536)
def _seconds(path: str, *_) -> float | None:
  with open_container(path, "Audio") as container:
    stream = next(iter(container.streams.audio), None)
    if stream is not None and stream.duration and stream.time_base:
      return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


@functools.lru_cache(maxsize=65536)
def _size_of_picture(path: str, *_) -> tuple[int, int]:
  with Image.open(path) as picture:
    return picture.height, picture.width


@functools.lru_cache(maxsize=65536)
def _size_of_video(path: str, *_) -> tuple[int, int] | None:
  with open_container(path, "Video") as container:
    stream = next(iter(container.streams.video), None)
    return None if stream is None else (stream.height, stream.width)
