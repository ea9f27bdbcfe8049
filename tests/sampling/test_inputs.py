"""What is made of a request's files, before any network is there."""

import os

from absl import logging
import numpy as np
from PIL import Image
import pytest
import soundfile

from emv3_jax.conditioning import face as face_lib
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.sampling import guidance_settings, memory
from emv3_jax.sampling.inputs import Inputs, read_inputs
from emv3_jax.sampling.settings import Request
from tests.sampling.conftest import tiny_config


@pytest.fixture
def read(files):
  """Reads the inputs of a request for a portrait with the given changes."""
  def inputs(*overrides: str, **changes) -> Inputs:
    config = tiny_config(*overrides)
    values = {"audio": files["audio"], "image": files["image"], "face_box": "8,40,8,40", **changes}
    return read_inputs(Request(**values), config, config.tokenizer)

  return inputs


@pytest.fixture
def told(monkeypatch) -> list[str]:
  """The warnings that are logged."""
  lines = []
  monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
  return lines


@pytest.fixture
def footage(tmp_path):
  """Six frames of noise, 48 x 48."""
  frames = np.random.default_rng(1).integers(0, 256, (6, 48, 48, 3), np.uint8)
  video_files.write_video(tmp_path / "source.mp4", frames)
  return tmp_path / "source.mp4"


def test_the_negative_prompt_of_the_request_goes_first(read):
  assert read("sampling.negative_prompt=bad hands").prompts["negative"] == "bad hands"
  assert read("sampling.negative_prompt=bad hands", negative_prompt="").prompts["negative"] == ""
  assert "negative" not in read("sampling.text_scale=1.0").prompts


PHASED = ("sampling.png=phases", "sampling.steps=4", "sampling.negative_prompt=bad hands",
          "sampling.png_phases=[{'until_step': 1}, {'until': 0.5, 'weight': 0, 'negative_prompt': 'unseen'}, "
          "{'negative_prompt': 'blurred'}]")


def test_the_negative_prompts_of_phases(read):
  """Those that some step is guided by."""
  def negative(*overrides, **changes):
    return {name: text for name, text in read(*PHASED, *overrides, **changes).prompts.items() if name != "prompt"}

  assert negative() == {"negative": "bad hands", "negative 2": "blurred"}
  assert negative(negative_prompt="dark") == {"negative": "dark", "negative 2": "blurred"}
  assert negative(negative_prompts=("a", "b", "c")) == {"negative": "a", "negative 2": "c"}
  assert negative("sampling.guidance_until=0.25") == {"negative": "bad hands"}
  assert negative("sampling.text_scale=1", "sampling.dynamic_text=False", "sampling.released_switch=False") == {}


@pytest.mark.parametrize("overrides, changes, message", [
    ((), {"negative_prompts": ["a"]}, "--negative_prompts has 1 prompts for the 3 phases of sampling.png_phases; give one"),
    (("sampling.png=released",), {"negative_prompts": ["a"]}, "they are for phases, sampling.png is 'released'. Leave"),
    (("sampling.png_phases=[{'negative_prompt': 'a'}]",), {"negative_prompt": "b"}, "has its own; there is --negative_prompts"),
    (("sampling.text_scale=1",), {"negative_prompts": ["a", "b", "c"]}, "no guidance by text at sampling.text_scale=1"),
    (("sampling.text_scale=1",), {"negative_prompt": "b"}, "no guidance by text at sampling.text_scale=1"),
])
def test_negative_prompts_without_effect_are_refused(read, overrides, changes, message):
  with pytest.raises(InputError, match=message):
    read(*PHASED, *overrides, **changes)


@pytest.mark.parametrize("overrides, message", [
    (("sampling.png=phase",), "sampling.png is 'phase'; known: released, phases, off."),
    (("sampling.guidance_until=0",), "guidance_until is 0.0; it must be above 0, at most 1"),
    (("sampling.guidance_until=1.5",), "guidance_until is 1.5; it must be above 0, at most 1"),
    (("sampling.png_phases=[]",), "PNG has no phases"),
    (("sampling.png_phases=[{'wait': 2}]",), "sampling.png_phases has no field 'wait'; did you mean 'weight'"),
    (("sampling.png_phases=[{'weight': float('nan')}]",), "png_phases=.*expected a value like"),
    (("sampling.png_phases=[{'weight': 1e999}]",), "weight is inf"),
    (("sampling.png_phases.0.weight=2",), "config.sampling.png_phases has no field '0'; give all of it."),
    (("sampling.png_phases=[3]",), "sampling.png_phases is 3; expected a group of fields"),
    (("sampling.png_phases=[{}, {'until_step': 3}]",), "out of order"),
])
def test_guidance_that_cannot_be(overrides, message):
  with pytest.raises(InputError, match=message) as found:
    tiny_config(*overrides)
  assert "\n" not in str(found.value)


def test_negative_prompts_of_a_command_line():
  assert guidance_settings.parse_prompts('["a", "b"]') == ("a", "b")
  for text in ("a", "[]", "[1]", '{"a": 1}', "[" * 9999):
    with pytest.raises(InputError, match="no JSON list of texts; write it as --negative_prompts="):
      guidance_settings.parse_prompts(text)
  with pytest.raises(InputError, match="negative_prompt and negative_prompts are given"):
    Request("a.wav", negative_prompt="", negative_prompts=["a"])


def test_the_seed_of_the_request_goes_first(read):
  assert read("seed=5").seed == 5 and read("seed=5", seed=0).seed == 0


def test_the_size_of_the_config_goes_first(read):
  found = read("sampling.height=32", "sampling.width=64")
  assert found.size == (32, 64) and found.video.shape == (5, 32, 64, 3)
  assert found.reference_image.shape == (32, 64, 3) and found.face_mask.shape == (8,)


def test_seconds_cut_the_sound(read, files):
  whole, _ = soundfile.read(files["audio"], dtype="float32")
  found = read(seconds=0.16)
  samples, rate = found.sound
  assert rate == 16000 and found.frames == 4
  np.testing.assert_array_equal(samples[:, 0], whole[:2560])


def test_pictures_that_the_task_does_not_use_are_refused(read, files):
  with pytest.raises(InputError, match="Task i2v does not use last_image"):
    read(last_image=files["last_image"])
  with pytest.raises(InputError, match="Task flf2v needs last_image"):
    read(task="flf2v")


def test_what_would_not_be_used_is_refused(read):
  with pytest.raises(InputError, match="Task i2v has no source to paste"):
    read(paste=False)
  with pytest.raises(InputError, match="negative prompt would not be used"):
    read("sampling.text_scale=1.0", negative_prompt="bad hands")


def test_lipsync_gives_all_but_the_mouth(read, footage):
  found = read(image=None, video=footage, task="lipsync", face_box="0,48,8,40")
  mouth = np.zeros((48, 48), bool)
  mouth[24:, 8:40] = True
  assert found.condition_mask.shape == (5, 48, 48) and found.video.pixels().shape == (5, 48, 48, 3)
  np.testing.assert_array_equal(found.condition_mask, np.broadcast_to(~mouth, (5, 48, 48)))
  np.testing.assert_array_equal(found.mouth_mask, ~found.condition_mask)
  assert not found.reference_image[mouth].any()
  np.testing.assert_array_equal(found.reference_image[~mouth], found.video.video(0, 1)[0][~mouth])


def test_a_video_s_face_is_all_that_it_covers(read, footage, monkeypatch, caplog):
  """A face that moves a pixel down and right from frame to frame."""
  seen = iter(range(9))

  def find(frame, model, closely):
    i = 4 * next(seen)
    return np.array([[10.0 + i, 30 + i, 8 + i, 24 + i]])

  caplog.set_level("INFO", "absl")
  monkeypatch.setattr(face_lib, "find_boxes", find)
  found = read(image=None, video=footage, task="lipsync", face_box="auto")
  rows, columns = np.nonzero(found.mouth_mask[0])
  # Two of five frames are looked at, once for the region and the face mask.
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == (22, 33, 8, 27)
  line, = [line for line in caplog.messages if "face found" in line]
  assert line.endswith("source.mp4: face found in 2 of 2 pictures that were looked at, within 10,34,8,28.")


@pytest.mark.parametrize("name, changes", [
    ("audio", {}), ("image", {}), ("last_image", {"task": "flf2v"}),
    ("video", {"task": "lipsync", "image": None}), ("face_box", {})])
def test_pipes_and_addresses_are_refused_and_not_waited_for(read, tmp_path, name, changes):
  """Nobody ever writes into the pipe."""
  pipe, what = tmp_path / "pipe.npy", name.replace("_", " ").capitalize()
  os.mkfifo(pipe)
  with pytest.raises(InputError, match=f"{what} {pipe} is a pipe; give a file."):
    read(**{**changes, name: str(pipe)})
  with pytest.raises(InputError, match=f"{what} gs://b/a.npy is an address"):
    read(**{**changes, name: "gs://b/a.npy"})


def test_a_request_that_cannot_be_is_refused_when_it_is_made(files):
  for wrong in ({"seed": -1}, {"seconds": 0.0}, {"seconds": float("nan")}):
    with pytest.raises(InputError, match="seed is -1|not a length of time"):
      Request(audio=files["audio"], **wrong)


@pytest.mark.parametrize("box", ["auto", "atuo", "0,8,0,8"])
def test_lipsync_is_not_told_to_take_what_it_refuses(read, footage, box):
  with pytest.raises(InputError) as caught:
    read(image=None, video=footage, task="lipsync", face_box=box)
  assert "none" not in str(caught.value)


def test_sizes_that_no_memory_holds_are_refused_before_they_are_made(read, footage, monkeypatch,
                                                                     caplog):
  huge = ("sampling.height=1600000", "sampling.width=1600000")
  for changes in ({}, {"task": "t2v", "image": None, "face_box": None},
                  {"task": "lipsync", "image": None, "video": footage}):
    with pytest.raises(InputError, match="5 frames of 1600000x1600000 pixels take .* this machine"):
      read(*huge, **changes)
  wanted = memory.needed((48, 48), 5, 6)
  monkeypatch.setattr(memory, "machine_memory", lambda: wanted * 3 // 2)
  read("sampling.enlarge=6")
  assert "may not be enough" in caplog.text
  monkeypatch.setattr(memory, "machine_memory", lambda: wanted - 1)
  with pytest.raises(InputError, match="GiB for the pictures alone"):
    read("sampling.enlarge=6")


def test_frames_that_no_memory_holds_together(monkeypatch):
  monkeypatch.setattr(memory, "machine_memory", lambda: 768 * 768 * 3 * 1500)
  memory.check_frames((768, 768), 1500)
  with pytest.raises(InputError, match="1501 frames of 768x768 .* with emv3_jax.stream"):
    memory.check_frames((768, 768), 1501)
  # A minute that is written takes the pictures of a window; only its latents are more.
  more = memory.needed((768, 768), 1501, window=113) - memory.needed((768, 768), 113)
  assert more == 96 * 96 * (376 - 29) * 144


def test_memory_of_a_clip():
  """113 frames of 768x768: 12 + 3 bytes a pixel, 144 a latent cell of 64 pixels and 4 frames."""
  assert memory.needed((768, 768), 113) == 768 * 768 * (113 * 15 + 29 * 144 // 64) + 96 * 96 * 16
  assert 2 ** 20 < memory.machine_memory() < 2 ** 60


def circle(folder, height, width):
  rows, columns = np.ogrid[:height, :width]
  inside = (rows - height / 2)**2 + (columns - width / 2)**2 <= 60**2
  Image.fromarray(inside * np.uint8(255)).save(folder / f"{width}x{height}.png")
  return folder / f"{width}x{height}.png"


def sides(picture):
  seen = picture[..., 0] > 0
  return seen.any(1).sum(), seen.any(0).sum()


def test_a_last_image_of_another_shape_is_cropped(read, tmp_path, told):
  found = read(task="flf2v", image=circle(tmp_path, 160, 160), last_image=circle(tmp_path, 320, 160),
               face_box="none")
  assert sides(found.video.video()[0]) == pytest.approx(sides(found.video.video()[-1]), abs=1)
  assert len(told) == 1 and "160x320 pixels the 160x160 in the middle are used" in told[0]


def test_a_set_size_of_another_shape_crops(read, tmp_path, told):
  image = circle(tmp_path, 320, 160)
  found = read("sampling.height=64", "sampling.width=64", image=image, face_box="80,240,0,160")
  tall, wide = sides(found.video.video()[0])
  assert abs(tall - wide) <= 1 and "the shape of the size that is set" in told[0]
  assert found.face_mask.all()  # the box is all of what is left
  frames = np.repeat(np.asarray(Image.open(image).convert("RGB"))[None], 6, axis=0)
  video_files.write_video(tmp_path / "a.mp4", frames)
  found = read("sampling.height=64", "sampling.width=64", image=None, video=tmp_path / "a.mp4",
               task="lipsync", face_box="80,240,0,160")
  tall, wide = sides(found.video.pixels()[0] // 128)
  assert abs(tall - wide) <= 1
  assert found.mouth_mask[0, 32:].all() and not found.mouth_mask[0, :30].any()
