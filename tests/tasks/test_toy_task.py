"""A task of one's own, made of the public pieces alone: one picture stands in the middle of the clip."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from emv3_jax import tasks
from emv3_jax.data import records
from emv3_jax.data.pipeline import collate
from emv3_jax.errors import InputError
from emv3_jax.preparation import encoding
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling import fingerprint
from emv3_jax.sampling.inputs import read_inputs
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Request
from emv3_jax.tasks import ConditionInput, ReferenceImage, TaskSpec, masks
from emv3_jax.tasks.conditions import assemble
from emv3_jax.variants.preview import PREVIEW
from tests.data.windows import CONFIG, make_record
from tests.sampling.conftest import files, tiny_config  # noqa: F401  a fixture

MIDDLE = TaskSpec(
    "middle", (ConditionInput("image", lambda frames, sampled: slice(frames // 2, frames // 2 + 1)),),
    ReferenceImage.FIRST, slot=3)
CHANNELS = np.array([[0, 0, 0, 0], [0, 1, 0, 0]])  # of five frames: the second one of latent frame 1


@pytest.fixture(autouse=True)
def middle():
  yield tasks.register(MIDDLE)
  tasks.unregister("middle")


@pytest.fixture(scope="module")
def model():
  return load(config=tiny_config())


@pytest.fixture
def request_of(files):  # noqa: F811
  return Request(audio=files["audio"], image=files["image"], prompt="a puppet", task="middle")


def test_a_request_is_read_and_its_files_count(model, request_of):
  found = read_inputs(request_of, model.config, model.tokenizer_path)
  assert found.condition_mask.tolist() == [False, False, True, False, False]
  assert found.video.video()[2].any() and not found.video.video()[[0, 1, 3, 4]].any()
  assert found.reference_image.shape == (48, 48, 3) and found.face_mask is None
  condition = clip_lib.encode_condition(model, found)[0]
  np.testing.assert_array_equal(condition[..., :4], np.broadcast_to(CHANNELS[:, None, None], (2, 6, 6, 4)))
  assert condition[..., 4:].any()
  entries = fingerprint.entries(model, request_of)
  assert "file.image" in entries and not {"face_box", "file.last_image", "paste"} & entries.keys()


@pytest.mark.parametrize("change, message", [
    ({"image": None}, "Task middle needs image"), ({"video": "a.mp4"}, "Task middle does not use video"),
    ({"face_box": "1,2,1,2"}, "task middle looks for no face"), ({"paste": True}, "Task middle has no source"),
    ({"task": "midle"}, "'midle'; known: t2v, i2v, flf2v, lipsync, middle. Did you mean middle")])
def test_requests_that_do_not_fit(model, request_of, change, message):
  with pytest.raises(InputError, match=message):
    read_inputs(dataclasses.replace(request_of, **change), model.config, model.tokenizer_path)


def test_a_clip_is_sampled(model, request_of):
  clip = clip_lib.sample(model, request_of)
  assert clip.frames.shape == (5, 48, 48, 3) and np.isfinite(clip.latents).all()
  assert clip.report["request"]["task"] == "middle"


def test_preparation_encodes_what_it_knows():
  frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
  videos = list(encoding._videos(SimpleNamespace(inpainted=np.zeros((16, 16), bool)), frames))
  assert len(videos) == 5 and videos[4][2].any()
  np.testing.assert_array_equal(videos[4][2], videos[0][2])
  assert not videos[4][[0, 1, 3, 4]].any()


def test_a_training_batch():
  """Records for all tasks that were prepared with it, and one that names it."""
  shape = (2, 4, 6, 16)
  whole = dataclasses.replace(make_record(1), masked_latents=np.float32(
      np.random.default_rng(1).standard_normal((4, *shape))))
  whole = records.decode(records.encode(whole, "float32", PREVIEW))
  own = make_record(2, task="middle")
  batch = collate([whole, own], np.arange(2), CONFIG.text_tokens, PREVIEW)
  got = assemble(batch, [tasks.number("middle")] * 2, "released")
  np.testing.assert_array_equal(got["mask"][0], np.broadcast_to(CHANNELS[:, None, None], (2, 4, 6, 4)))
  np.testing.assert_array_equal(got["masked_latents"][0], whole.masked_latents[3])
  np.testing.assert_array_equal(got["image"][0], whole.image[ReferenceImage.FIRST])
  np.testing.assert_array_equal(got["masked_latents"][1], own.masked_latents[0])
  np.testing.assert_array_equal(got["mask"][1], own.task_mask)
  assert (got["face_mask"] == 1).all() and got["task"].tolist() == [4, 4]


def test_what_records_do_not_hold_is_not_trained():
  batch = collate([make_record(1)], np.arange(1), CONFIG.text_tokens, PREVIEW)
  with pytest.raises(InputError, match="holds the masked latents of 3 tasks, but not those of middle"):
    assemble(batch, [tasks.number("middle")], "moving")
  tasks.unregister("middle")
  tasks.register(dataclasses.replace(MIDDLE, slot=None))
  with pytest.raises(InputError, match="middle cannot be trained on records that serve all tasks"):
    assemble(batch, [tasks.number("middle")], "moving")


def test_a_part_of_a_video_without_its_mouth():
  half = TaskSpec("half", (ConditionInput("video", lambda frames, sampled: slice(0, 2)),), inpaints_mouth=True)
  mouth = np.zeros((8, 8), bool)
  mouth[4:] = True
  condition = half.condition_mask(5, mouth=mouth)
  assert condition[:2, :4].all() and not condition[:2, 4:].any() and not condition[2:].any()
  assert masks.mask_latents(condition, (8, 8)).shape == (2, 1, 1, 4)


def test_what_cannot_be_registered():
  with pytest.raises(ValueError, match="There is a task i2v already"):
    tasks.register(TaskSpec("i2v"))
  with pytest.raises(ValueError, match="slot 7; the next free one is 4"):
    tasks.register(TaskSpec("other", slot=7))
  with pytest.raises(ValueError, match="inpaints the mouth"):
    TaskSpec("other", postprocess=lambda frames, source, mouth: frames)
  with pytest.raises(ValueError, match="lipsync was not the last"):
    tasks.unregister("lipsync")
