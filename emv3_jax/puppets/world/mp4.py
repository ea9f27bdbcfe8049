"""Puppets as ordinary video files with a manifest, to go through the same door as real footage."""

import dataclasses
import json
import os
import pathlib

import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.geometry import FPS, RATE
from emv3_jax.io.atomic import atomic_file
from emv3_jax.io.paths import refuse_address
from emv3_jax.io.video_files import write_video
from emv3_jax.puppets.world.clips import clip_spec
from emv3_jax.puppets.world.render import Clip, render_clip

MANIFEST = "clips.jsonl"
_BOXES = ("face_box", "mouth_box")


def write_mp4s(out_dir: str | os.PathLike, seed: int = 0, count: int = 1000, split: str = "train",
               frames: int = 17, first: int = 0) -> pathlib.Path:
  """Renders clips `first` .. `first + count - 1` of a split to OUT_DIR/SPLIT_00000.mp4 and so on.

  Files that are there already are rendered anew. The manifest is written last.

  Returns:
    The manifest, OUT_DIR/clips.jsonl. A line a clip: `id`, `video` (relative to the manifest),
    `prompt` (its caption), `face_box` and `mouth_box` (a list of [y1, y2, x1, x2], ends excluded,
    one for each frame), and `truth`, the rest of `render.Truth` as JSON.

  Raises:
    InputError: unknown split, or a folder that cannot be written.
  """
  refuse_address(out_dir, "Output folder")
  out_dir = pathlib.Path(out_dir)
  try:
    out_dir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(f"Output folder {out_dir} cannot be made: {error.strerror}.") from error
  lines = []
  for index in range(first, first + count):
    clip = render_clip(clip_spec(seed, index, split, frames))
    name = f"{split}_{index:05d}"
    write_video(out_dir / f"{name}.mp4", clip.frames, fps=FPS, audio=(clip.audio, RATE),
                metadata={"synthetic": True, "made_by": "puppets", "seed": seed, "index": index,
                          "split": split, "caption": clip.caption})
    lines.append(json.dumps(_row(name, clip)))
  with atomic_file(out_dir / MANIFEST) as temporary:
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  return out_dir / MANIFEST


def _row(name: str, clip: Clip) -> dict:
  truth = {key: value.tolist() if isinstance(value, np.ndarray) else value
           for key, value in dataclasses.asdict(clip.truth).items() if key not in _BOXES}
  return {"id": name, "video": f"{name}.mp4", "prompt": clip.caption,
          **{name: getattr(clip.truth, name).tolist() for name in _BOXES}, "truth": truth}


def box_around(boxes: np.ndarray) -> str:
  """The box around boxes [frames, 4], as "y1,y2,x1,x2"."""
  low, high = boxes.min(0), boxes.max(0)
  return f"{low[0]},{high[1]},{low[2]},{high[3]}"
