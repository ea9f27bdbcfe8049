"""Videos and boxes of long lip-sync that do not fit their sound, and what is said of them."""

import json

import numpy as np
import pytest
import soundfile

from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.sampling.inputs import Inputs, read_inputs
from emv3_jax.sampling.settings import Request
from tests.sampling.conftest import tiny_config

VOICE = 33  # frames, of windows of 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A voice of VOICE frames, and videos of 32 x 32 of several lengths."""
  path = tmp_path_factory.mktemp("long")
  soundfile.write(path / "voice.wav", 0.3 * np.sin(np.arange(640 * VOICE) / 12), 16000)
  frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
  for count in (30, 33, 40):
    video_files.write_video(path / f"{count}.mp4", frames[:count])
  return path


def read(folder, frames: int, boxes: list | None = None) -> Inputs:
  """Reads the inputs of a video of so many frames, with boxes by frame or one box."""
  (folder / "boxes.json").write_text(json.dumps(boxes))
  face_box = "0,32,0,32" if boxes is None else str(folder / "boxes.json")
  config = tiny_config("sampling.max_frames=9", "sampling.max_area=1024", "sampling.face_mask=moving")
  request = Request(audio=folder / "voice.wav", video=folder / f"{frames}.mp4", task="lipsync", face_box=face_box)
  return read_inputs(request, config, config.tokenizer)


def test_a_video_that_is_shorter_than_the_sound(folder):
  with pytest.raises(InputError, match=r"30.mp4 has 1.20 s of pictures, .*voice.wav has 1.32 s of sound; "
                     "pass --seconds=1.2 or a longer video"):
    read(folder, 30)


def test_the_end_of_a_longer_video_is_not_used(folder, caplog):
  caplog.set_level("INFO", "absl")
  found = read(folder, 40)
  assert found.video.shape[0] == found.frames == VOICE
  assert any("40.mp4 has more pictures than the 1.32 s of sound" in line for line in caplog.messages)


def test_frames_without_a_box_are_bridged_and_named(folder, caplog):
  boxes = [[0, 16, 0, 16] for _ in range(VOICE)]
  boxes[20:23], boxes[23:] = [None] * 3, [[0, 16, 16, 32]] * 10
  found = read(folder, 33, boxes)
  first = [np.flatnonzero(mask.any(axis=0))[0] for mask in found.mouth_mask]
  assert first[19] == 0 and 0 < first[22] < 16 and first[32] == 16  # a latent frame has one region
  assert [line for line in caplog.messages if "no box for frames 20-22; a straight line between" in line]
  boxes[2:30] = [None] * 28
  with pytest.raises(InputError, match="frames 2-29 have no box; at most 25 frames one after the other are bridged"):
    read(folder, 33, boxes)


def test_a_mouth_that_leaves_the_picture(folder, caplog):
  """In part: it is said. As a whole: it is an error that names the frames."""
  boxes = [[0, 16, 8, 24]] * 10 + [[0, 16, 28, 44]] * 23
  read(folder, 33, boxes)
  assert any("leaves the picture in frames 10-32" in line for line in caplog.messages)
  boxes[10:] = [[0, 16, 40, 56]] * 23
  with pytest.raises(InputError, match="lies outside the picture, .* in frames 10-32"):
    read(folder, 33, boxes)
