"""Draws a clip of a puppet beside its sound: an animated picture for the README.

  make demo
  python scripts/show_tiny.py --clip=outputs/demo/talking.mp4 --out=docs/images/talking.gif

The puppet, under it the waveform and two curves of the mouth: what the sound asks for (the world's own
law) and what is read from the pixels of the clip.
"""

import pathlib

import numpy as np
from PIL import Image, ImageDraw

from emv3_jax.errors import InputError
from emv3_jax.geometry import RATE
from emv3_jax.io.atomic import atomic_file
from emv3_jax.io.audio_files import read_audio
from emv3_jax.io.resampling import resample
from emv3_jax.io.video_files import read_video
from emv3_jax.puppets import world
from emv3_jax.puppets.world import readers
from emv3_jax.puppets.world.canvas import SIZE
from emv3_jax.puppets.world.sentences import SAMPLES_PER_FRAME
from emv3_jax.runtime import command_line

SIDE, STRIP = 256, 56  # pixels: of the picture, and the height of a strip under it
PAPER, INK, WAVE, TRUE, SEEN, NOW = "white", "#444444", "#9aa7b1", "#2a78d6", "#d6452a", "#bbbbbb"
COLOURS = 96


def frame_of(picture: np.ndarray, now: int, sound: np.ndarray, true: np.ndarray,
             seen: np.ndarray) -> Image.Image:
  """One picture of the animation."""
  page = Image.new("RGB", (SIDE, SIDE + 2 * STRIP), PAPER)
  page.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (0, 0))
  pen, frames = ImageDraw.Draw(page), len(true)
  x = lambda frame: (frame + 0.5) * SIDE / frames
  pen.line([(x(now), SIDE), (x(now), SIDE + 2 * STRIP)], NOW)
  level = np.abs(sound).reshape(SIDE, -1).max(1) / max(np.abs(sound).max(), 1e-6)
  for column, height in enumerate(level * (STRIP / 2 - 6)):
    middle = SIDE + STRIP / 2
    pen.line([(column, middle - height), (column, middle + height)], WAVE)
  y = lambda opening: SIDE + 2 * STRIP - 6 - opening * (STRIP - 16)
  for curve, colour, until in ((true, TRUE, frames), (seen, SEEN, now + 1)):
    points = [(x(i), y(float(curve[i]))) for i in range(until)]
    pen.line(points if len(points) > 1 else points * 2, colour, 2)
  pen.text((4, SIDE + STRIP - 2), "mouth:", INK)
  pen.text((44, SIDE + STRIP - 2), "as the sound asks", TRUE)
  pen.text((150, SIDE + STRIP - 2), "as seen", SEEN)
  return page


def main(arguments) -> int:
  parser = command_line.Parser(description=__doc__)
  parser.add_argument("--clip", required=True, type=pathlib.Path)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  flags, _ = parser.parse(arguments)
  if flags.out.suffix != ".gif":
    raise InputError(f"--out={flags.out} does not end in .gif.")
  small = np.stack([np.asarray(Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BOX))
                    for frame in read_video(flags.clip).frames])
  samples, rate = read_audio(flags.clip)
  sound = resample(samples.mean(1), rate, RATE)[:len(small) * SAMPLES_PER_FRAME]
  sound = np.pad(sound, (0, len(small) * SAMPLES_PER_FRAME - len(sound))).astype(np.float32)
  true, seen = world.mouth_curve(sound, RATE, len(small)), readers.opening(small)
  whole = sound[:len(sound) // SIDE * SIDE]
  pages = [frame_of(picture, now, whole, true, seen) for now, picture in enumerate(small)]
  palette = pages[len(pages) // 2].quantize(COLOURS)
  first, *others = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
  with atomic_file(flags.out) as temporary:
    first.save(temporary, format="gif", save_all=True, append_images=others, duration=40, loop=0,
               optimize=True)
  return 0


if __name__ == "__main__":
  command_line.run(main)
