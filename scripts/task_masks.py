"""Draws what each task knows of a clip, in pixels and in the network's mask channels.

  python scripts/task_masks.py --out=docs/images/task_masks.png
"""

import argparse

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from emv3_jax import tasks
from emv3_jax.conditioning import face_boxes
from emv3_jax.conditioning.image import to_pixels
from emv3_jax.io.atomic import atomic_file
from emv3_jax.puppets import world
from emv3_jax.puppets.world.mp4 import box_around
from emv3_jax.tasks import masks

FRAMES, INDEX = 17, 3  # a clip of the training split
SCALE, GAP, LABEL, HEAD = 2, 4, 92, 26  # pixels
KNOWN, UNKNOWN = (250, 250, 250), (70, 80, 110)
TITLES = {"t2v": "text", "i2v": "first frame", "flf2v": "first and last", "lipsync": "lip-sync"}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--out", default="docs/images/task_masks.png")
  wanted = parser.parse_args()
  clip = world.render_clip(world.clip_spec(0, INDEX, frames=FRAMES))
  size = clip.frames.shape[1:3]
  box = np.array([box_around(clip.truth.face_box).split(",")], np.float64)
  redrawn, = face_boxes.mouth_regions(box, size, size)
  rows = []
  for name in tasks.names():
    known = tasks.of(name).condition_mask(FRAMES, mouth=redrawn)
    video = masks.masked_video(to_pixels(clip.frames), known)[::4]
    pixels = np.rint((video + 1) * 127.5).astype(np.uint8)
    rows.append((TITLES[name], list(pixels), list(masks.mask_latents(known, size))))
  with atomic_file(wanted.out) as temporary:
    draw(rows).save(temporary, optimize=True)


def draw(rows: list[tuple[str, list, list]]) -> Image.Image:
  """A row a task: its title, frames 0, 4, 8, ... as known, and its mask channels by latent frame."""
  count, side = len(rows[0][1]), rows[0][1][0].shape[0] * SCALE
  width = LABEL + 2 * count * (side + GAP) + 3 * GAP
  sheet = Image.new("RGB", (width, HEAD + len(rows) * (side + GAP)), "white")
  pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
  second = LABEL + count * (side + GAP) + 3 * GAP
  pen.text((LABEL, 4), "video frames 0, 4, 8, 12, 16 as the task knows them", "black", font)
  pen.text((second, 4), "mask of the 5 latent frames, 4 channels a cell (white: known)", "black", font)
  for number, (title, pixels, cells) in enumerate(rows):
    top = HEAD + number * (side + GAP)
    pen.text((0, top + side // 2 - 10), title, "black", font)
    for place, (picture, mask) in enumerate(zip(pixels, cells, strict=True)):
      left = place * (side + GAP)
      shown = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
      sheet.paste(shown, (LABEL + left, top))
      sheet.paste(draw_cells(mask, side), (second + left, top))
  return sheet


def draw_cells(mask: np.ndarray, side: int) -> Image.Image:
  """The cells [h8, w8, 4] of one latent frame, each as 2x2 channels."""
  picture = Image.new("RGB", (side, side), "black")
  pen, step = ImageDraw.Draw(picture), side // mask.shape[0]
  for (row, column, channel), known in np.ndenumerate(mask):
    left, top = column * step + channel % 2 * step // 2, row * step + channel // 2 * step // 2
    right, bottom = left + step // 2 - 1 - channel % 2, top + step // 2 - 1 - channel // 2
    pen.rectangle((left, top, right, bottom), KNOWN if known else UNKNOWN)
  return picture


if __name__ == "__main__":
  main()
