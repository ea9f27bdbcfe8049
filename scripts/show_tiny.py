"""Draws a clip of a puppet beside its sound: an animated picture for the README.

  python scripts/show_tiny.py --seconds=20 --out=docs/images/talking.gif
  python scripts/show_tiny.py --clip=outputs/demo/talking.mp4 --out=demo.gif

The puppet, under it the waveform and two curves of the mouth: what the sound asks for (the world's own
law) and what is read from the pixels of the clip. With --seconds the small default's portrait first says
held-out sentences of that length, in outputs/show. The picture is as large and as smooth as 3 MB allow.
"""

import dataclasses
import io
import pathlib

from absl import logging
import numpy as np
from PIL import Image, ImageDraw

from configs.tiny import ASSETS
from emv3_jax.commands import sample
from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS, RATE
from emv3_jax.io.atomic import atomic_file
from emv3_jax.io.audio_files import read_audio
from emv3_jax.io.resampling import resample
from emv3_jax.io.video_files import stream_video
from emv3_jax.puppets import world
from emv3_jax.puppets.judging import long_clips
from emv3_jax.puppets.judging.samples import write_wav
from emv3_jax.puppets.world import readers
from emv3_jax.puppets.world.canvas import SIZE
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME
from emv3_jax.runtime import command_line

STRIP = 56  # pixels, the height of a strip under the picture
PAPER, INK, WAVE, TRUE, SEEN, NOW = "white", "#444444", "#9aa7b1", "#2a78d6", "#d6452a", "#bbbbbb"
SECTION = 125  # frames of the curves that are shown at a time
LIMIT = 3_000_000  # bytes
# Sizes in pixels, frames of the clip for one that is shown, colours: the first that fits is taken.
FORMS = ((256, 1, 96), (192, 2, 64), (192, 2, 40), (192, 3, 40), (128, 3, 32), (64, 5, 32))
OUT = pathlib.Path("outputs/show")


@dataclasses.dataclass(frozen=True)
class Shown:
  """A clip: pictures uint8 [F, 64, 64, 3], samples [F * 640] at 16 kHz, and openings [F] as asked for and as seen."""

  pictures: np.ndarray
  sound: np.ndarray
  true: np.ndarray
  seen: np.ndarray


def page_of(shown: Shown, now: int, side: int) -> Image.Image:
  """One picture of the animation, `side` pixels wide."""
  page = Image.new("RGB", (side, side + 2 * STRIP), PAPER)
  page.paste(Image.fromarray(shown.pictures[now]).resize((side, side), Image.Resampling.LANCZOS), (0, 0))
  pen, frames = ImageDraw.Draw(page), min(SECTION, len(shown.true))
  begin = min(now // SECTION * SECTION, len(shown.true) - frames)
  x = lambda frame: (frame - begin + 0.5) * side / frames
  pen.line([(x(now), side), (x(now), side + 2 * STRIP)], NOW)
  heard = np.abs(shown.sound[begin * SAMPLES_PER_FRAME:(begin + frames) * SAMPLES_PER_FRAME])
  loud = heard[:len(heard) // side * side].reshape(side, -1).max(1)
  for column, height in enumerate(loud / max(np.abs(shown.sound).max(), 1e-6) * (STRIP / 2 - 6)):
    middle = side + STRIP / 2
    pen.line([(column, middle - height), (column, middle + height)], WAVE)
  y = lambda opening: side + 2 * STRIP - 6 - opening * (STRIP - 16)
  for curve, colour, until in ((shown.true, TRUE, begin + frames), (shown.seen, SEEN, now + 1)):
    points = [(x(i), y(float(curve[i]))) for i in range(begin, until)]
    pen.line(points if len(points) > 1 else points * 2, colour, 2)
  for text, colour, place in (("mouth:", INK, 0), ("as the sound asks", TRUE, 40), ("as seen", SEEN, 146)):
    if place + 40 < side:
      pen.text((4 + place, side + STRIP - 2), text, colour)
  return page


def with_patches(page: Image.Image) -> Image.Image:
  """Adds patches of the pens' colours to a page, so that each gets a place in the palette."""
  pens = (INK, WAVE, TRUE, SEEN, NOW)
  patched = Image.new("RGB", (page.width, page.height + len(pens) * STRIP), PAPER)
  patched.paste(page, (0, 0))
  for row, colour in enumerate(pens):
    patched.paste(colour, (0, page.height + row * STRIP, page.width, page.height + (row + 1) * STRIP))
  return patched


def animation(shown: Shown) -> bytes:
  """The GIF, in the first of FORMS that fits LIMIT.

  Raises:
    InputError: none fits.
  """
  for side, every, colours in FORMS:
    pages = [page_of(shown, now, side) for now in range(0, len(shown.true), every)]
    palette = with_patches(pages[len(pages) // 2]).quantize(colours)
    first, *others = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    made = io.BytesIO()
    first.save(made, format="gif", save_all=True, append_images=others, duration=round(1000 * every / FPS), loop=0,
               optimize=True)
    if made.tell() <= LIMIT:
      logging.info("%d pixels wide, %g pictures a second, %d colours: %.1f MB.", side, FPS / every, colours,
                   made.tell() / 1e6)
      return made.getvalue()
  raise InputError(f"The clip of {len(shown.true) / FPS:.0f} s does not fit {LIMIT / 1e6:g} MB; show a shorter one.")


def read(path: pathlib.Path) -> Shown:
  """Reads a clip of a puppet."""
  small = np.stack([np.asarray(Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BOX))
                    for frame in stream_video(path)])
  samples, rate = read_audio(path)
  wanted = len(small) * SAMPLES_PER_FRAME
  sound = resample(samples.mean(1), rate, RATE)[:wanted]
  sound = np.pad(sound, (0, wanted - len(sound))).astype(np.float32)
  return Shown(small, sound, world.mouth_curve(sound, RATE, len(small)), readers.opening(small))


def speak(seconds: float, overrides: list[str]) -> pathlib.Path:
  """Lets the small default's portrait say held-out sentences; returns the clip."""
  OUT.mkdir(parents=True, exist_ok=True)
  write_wav(OUT / "speech.wav", long_clips.voice(round(seconds * FPS), seed=0)[0])
  told = {name: (ASSETS / f"{name}.txt").read_text(encoding="utf-8").strip() for name in ("face_box", "prompt")}
  sample.main(["--config=configs/tiny.py", f"--image={ASSETS / 'portrait.png'}", f"--audio={OUT / 'speech.wav'}",
               f"--face_box={told['face_box']}", f"--prompt={told['prompt']}", f"--out={OUT / 'talking.mp4'}",
               "--report", *overrides])
  return OUT / "talking.mp4"


def main(arguments) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--clip", type=pathlib.Path, help="that is there")
  parser.add_argument("--seconds", type=float, help="of a clip that is made")
  parser.add_argument("--out", required=True, type=pathlib.Path)
  flags, overrides = parser.parse(arguments)
  if flags.out.suffix != ".gif":
    raise InputError(f"--out={flags.out} does not end in .gif.")
  if (flags.clip is None) == (flags.seconds is None):
    raise InputError("Give --clip of a clip that is there, or --seconds of one that is to be made.")
  picture = animation(read(flags.clip or speak(flags.seconds, overrides)))
  with atomic_file(flags.out) as temporary:
    temporary.write_bytes(picture)
  return 0


if __name__ == "__main__":
  command_line.run(main)
