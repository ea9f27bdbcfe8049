"""Decodes one upload in a process of its own: `python -m emv3_jax.web.decoding KIND SOURCE DESTINATION`.

What comes out is written by this project: pixels as PNG, sound as WAV, videos without loss. The file that came in
reaches no other process. Limits of time, memory and file size hold before the first byte is read.
"""

import json
import pathlib
import resource
import sys
from typing import Any

MEMORY, SECONDS, FILE = 4 << 30, 90, 2 << 30  # of address space, of the processor, of what is written
PIXELS = 60_000_000
MAX_SECONDS = 600  # of sound
MAX_VIDEO = 60, 2_100_000  # seconds, pixels of a frame
SUFFIX = {"portrait": ".png", "last": ".png", "voice": ".wav", "video": ".mkv"}


def limit() -> None:
  """Sets the limits of this process."""
  for kind, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, FILE),
                      (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 256)):
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def decode(kind: str, source: pathlib.Path, destination: pathlib.Path) -> dict[str, Any]:
  """Decodes a file and writes it anew.

  Args:
    kind: a key of `SUFFIX`.
    source: what was uploaded.
    destination: is written.

  Returns:
    `width`, `height` in pixels, `seconds`; those that there are.

  Raises:
    InputError: the file is none of its kind, damaged, or larger than is allowed.
  """
  return {"portrait": _picture, "last": _picture, "voice": _voice, "video": _video}[kind](source, destination)


def _picture(source: pathlib.Path, destination: pathlib.Path) -> dict[str, Any]:
  from PIL import Image

  from emv3_jax.errors import InputError
  from emv3_jax.io import image_files
  Image.MAX_IMAGE_PIXELS = None  # the next lines check it, before a pixel is decoded
  try:
    with Image.open(source) as header:
      width, height = header.size
  except (OSError, SyntaxError, ValueError):
    width, height = 0, 0  # `load_image` tells what is wrong
  if height * width > PIXELS:
    raise InputError(f"The picture is {width}x{height} pixels; at most {PIXELS // 10**6} megapixels are taken. Save it "
                     "smaller.")
  pixels = image_files.load_image(source)
  Image.fromarray(pixels).save(destination, format="PNG", compress_level=1)
  return {"height": pixels.shape[0], "width": pixels.shape[1]}


def _voice(source: pathlib.Path, destination: pathlib.Path) -> dict[str, Any]:
  from scipy.io import wavfile

  from emv3_jax.errors import InputError
  from emv3_jax.io import audio_files
  samples, rate = audio_files.read_audio(source)
  seconds = len(samples) / rate
  if seconds > MAX_SECONDS:
    raise InputError(f"The sound has {seconds:.0f} s; at most {MAX_SECONDS} s are taken here. `run_sample.py` takes any "
                     "length.")
  wavfile.write(destination, rate, samples)  # float32, as decoded
  return {"seconds": round(seconds, 2)}


def _video(source: pathlib.Path, destination: pathlib.Path) -> dict[str, Any]:
  import av

  from emv3_jax.errors import InputError
  from emv3_jax.geometry import FPS
  from emv3_jax.io import video_files
  seconds, pixels = MAX_VIDEO
  with av.open(str(destination), "w", format="matroska") as container:
    stream: Any = container.add_stream("libx264rgb", rate=FPS, options={"qp": "0", "preset": "ultrafast"})
    stream.pix_fmt, count, shape = "rgb24", 0, (0, 0)
    for frame in video_files.stream_video(source):
      if not count:
        shape = frame.shape[:2]
        if shape[0] * shape[1] > pixels:
          raise InputError(f"The video is {shape[1]}x{shape[0]} pixels; at most {pixels / 1e6:g} megapixels are taken.")
        stream.height, stream.width = shape
      count += 1
      if count > seconds * FPS:
        raise InputError(f"The video is longer than {seconds} s; cut it, or use run_sample.py.")
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
  return {"height": shape[0], "width": shape[1], "seconds": round(count / FPS, 2)}


def main(arguments: list[str]) -> int:
  """Writes what `decode` returns as JSON to stdout, or {"error": message}; returns the exit code."""
  limit()
  kind, source, destination = arguments[0], pathlib.Path(arguments[1]), pathlib.Path(arguments[2])
  from emv3_jax.errors import InputError
  try:
    answer, code = decode(kind, source, destination), 0
  except InputError as error:
    answer, code = {"error": str(error).replace(f" {source}", "").replace("\n", " ")}, 2
  except MemoryError:
    answer, code = {"error": "Decoding the file takes more memory than is allowed."}, 2
  print(json.dumps(answer))
  return code


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
