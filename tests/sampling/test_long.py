"""Clips that are longer than a window: their windows, conditions, prompts by time."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from emv3_jax import sharding, tasks, variants
from emv3_jax.diffusion import windows
from emv3_jax.errors import InputError
from emv3_jax.jobs.manifest import read_manifest
from emv3_jax.sampling import chunks, long_plan, timed_prompts, window_conditions
from emv3_jax.sampling.denoise import Conditions, Denoiser
from emv3_jax.sampling.given_frames import GivenFrames
from emv3_jax.sampling.inputs import Inputs
from emv3_jax.sampling.long_plan import LongPlan
from emv3_jax.sampling.long_settings import LongConfig
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import Request, SamplingConfig
from emv3_jax.sampling.window_conditions import Encoded
from emv3_jax.sampling.window_denoiser import WindowDenoiser
from emv3_jax.sharding import MeshConfig, make_mesh
from tests import golden_data
from tests.sampling.conftest import tiny_config
from tests.sampling.test_golden_runs import channels_last, conditions_of, denoiser_and_params


def settings(**long) -> SamplingConfig:
  return SamplingConfig(max_frames=17, long=LongConfig(**long)).with_defaults("preview")


def test_windows_of_a_clip():
  assert long_plan.plan(settings(), 17, 1) is None
  found = long_plan.plan(settings(overlap=5), 33, 1)
  assert found.windows == ((0, 5), (2, 7), (4, 9)) and (found.overlap, found.batch, found.total) == (2, 1, 9)
  assert long_plan.plan(settings(window=9), 17, 4).batch == 4
  assert long_plan.plan(settings(window=9), 9, 1) is None
  assert long_plan.plan(settings(mode="chunked", window_batch=4), 33, 4).batch == 1
  assert str(found) == "33 frames (1.32 s) in 3 windows of 17 that share 5 or more, mode blended"


def test_what_windows_share_in_frames():
  """A clip is decoded as one, chunks each by itself; no frame lies beyond the clip."""
  found = long_plan.plan(settings(overlap=5), 33, 1)  # latents 2, 3, 4 and 4, 5, 6 of four frames each
  assert found.overlaps(33) == ((5, 17), (13, 25)) and found.overlaps(15) == ((5, 14), (13, 14))
  chunked = LongPlan("chunked", (windows.Window(0, 3), windows.Window(2, 5)), 1, 1)
  assert chunked.overlaps(17) == ((8, 9),) and chunked.overlaps(9) == ()


@pytest.mark.parametrize("length, mode, latents", [(29, "blended", 7), (29, "chunked", 3), (5, "chunked", 1), (3, "paper", 1)])
def test_what_windows_share_by_default(length, mode, latents):
  assert LongConfig(mode=mode).overlap_latents(length) == latents


@pytest.mark.parametrize("long, message", [
    ({"overlap": 17}, "overlap is 17 frames, a window has 17; windows must be longer"),
    ({"window": 33}, "sampling.long.window is 33 frames, sampling.max_frames is 17"),
    ({"window": 1}, "A window of 1 frames is too short"),
    ({"window_batch": 6}, "window_batch is 6; it must divide over data x fsdp = 4 of the mesh, e.g. 4 or 8")])
def test_windows_that_cannot_be(long, message):
  with pytest.raises(InputError, match=message):
    long_plan.plan(settings(**long), 33, 4)


@pytest.mark.parametrize("long, message", [
    ({"overlap": 6}, "overlap is 6 frames, which is no number of latent frames; it must be 4k.1, e.g. 5 or 9"),
    ({"mode": "blend"}, "'blend'; did you mean 'blended'"), ({"window": -1}, "window is -1; it must be 0 or more")])
def test_settings_that_cannot_be(long, message):
  with pytest.raises(InputError, match=message):
    LongConfig(**long)


@pytest.mark.parametrize("mode, groups", [("blended", [[0, 1], [2, 2]]), ("released", [[0, 1], [2, 2]])])
def test_groups_of_windows(mode, groups):
  plan = LongPlan(mode, windows.place(9, 5, 2, mode), 2, 2)
  assert list(plan.groups()) == groups
  # Released windows have other features of the voice at the end, where their length is the same too.
  plan = LongPlan(mode, windows.place(11, 5, 2, mode), 2, 3)
  assert list(plan.groups()) == ([[0, 1, 2]] if mode == "blended" else [[0, 1, 1], [2, 2, 2]])


def test_groups_of_any_size_give_the_same_clip():
  case = golden_data.load("e2e", "long_33_p17_o2")
  denoiser, params = denoiser_and_params(case, steps=2, neg_scale=1.0)
  whole, noise = conditions_of(case), channels_last(case["init_noise"])[0]
  placed = windows.place(9, 3, 1)
  assert len(placed) == 4
  found = []
  for batch in (1, 2, 5):
    conditions = [Conditions(whole.text, whole.image, whole.audio[:, 8 * start:8 * stop - 6], whole.condition[:, :3],
                             whole.face_mask) for start, stop in placed]
    found.append(WindowDenoiser(denoiser, "blended").run(
        params, noise, LongPlan("blended", placed, 1, batch), conditions))
  pair = make_mesh(MeshConfig(data=2), jax.devices()[:2])
  split = sharding.on_mesh(denoiser.transformer.config, pair)
  found.append(WindowDenoiser(Denoiser(split, denoiser.settings), "blended").run(
      sharding.shard_params(params, pair), noise, LongPlan("blended", placed, 1, 2), conditions))
  for other in found[1:]:
    np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-5 * np.abs(found[0]).max())


def given(task: str, frames: int = 17) -> Inputs:
  """Inputs of a clip of one pixel a frame, whose pictures and mouth are its frame's number."""
  video = GivenFrames(frames, (8, 8))
  for number in range(frames):
    video.put(number, np.full((8, 8, 3), number, np.uint8))
  mouth = np.zeros((frames, 8, 8), bool)
  mouth[:, 4:] = True
  mask = tasks.of(task).condition_mask(frames, mouth=mouth)
  blank = dict.fromkeys(field.name for field in dataclasses.fields(Inputs))
  return Inputs(**{**blank, "video": video, "condition_mask": mask, "face_mask": np.arange(10, dtype=np.float32).reshape(2, 5),
                   "prompt_times": (0.0, 0.36), "frames": frames, "sample_frames": frames, "size": (8, 8)})


class WithoutNetworks(Model):
  """A model whose VAE takes one pixel of each video frame that a latent frame begins or ends with."""

  def __init__(self, variant: str, **long):
    config = tiny_config()
    network = dataclasses.replace(config.model.transformer, variant=variant)
    self.config = dataclasses.replace(config, sampling=settings(window=9, overlap=5, **long),
                                      model=dataclasses.replace(config.model, transformer=network))

  def parameters(self, name):
    return contextlib.nullcontext({})

  def vae_encode(self, params, video):
    return np.repeat(video[:, ::4, 4:5, 4:5, :1], 16, axis=-1)


@pytest.mark.parametrize("variant", variants.names())
@pytest.mark.parametrize("task, anchors", [("i2v", True), ("i2v", False), ("flf2v", True), ("t2v", True), ("lipsync", True)])
def test_conditions_of_windows(task, anchors, variant):
  model, inputs = WithoutNetworks(variant, anchor=anchors, keep_picture=anchors), given(task)
  plan = long_plan.plan(model.config.settings, 17, 1)
  assert plan.windows == ((0, 3), (1, 4), (2, 5))
  rate = variants.of(variant).features_per_frame
  encoded = Encoded({"prompt": np.zeros((1, 2)), "prompt 1": np.ones((1, 2)), "negative": np.full((1, 2), 2.),
                     "negative 1": np.full((1, 2), 3.)},
                    np.arange(17 * rate, dtype=np.float32).reshape(-1, 1, 1), np.ones((1, 1, 4)))
  found = window_conditions.conditions_of(model, inputs, encoded, plan, tasks.of(task))
  known = [one.condition[0, :, 0, 0, 0].tolist() for one in found]
  assert known == {"i2v": [[1, 0, 0]] * 3 if anchors else [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
                   "flf2v": [[1, 0, 0]] * 3, "t2v": [[0, 0, 0]] * 3, "lipsync": [[0, 0, 0]] * 3}[task]
  last = found[2].condition[0, :, 0, 0, 3].tolist()  # channel of the last frame of a latent frame
  assert last == ([1, 0, 1] if task == "flf2v" else known[2])
  # Every window has the whole clip's features from the frame of its first latent frame on.
  middle = [(one.audio[0, :, 2] if variant == "flash" else one.audio[0]).ravel() for one in found]
  assert [(row[0], row[-1], len(row)) for row in middle] == [
      (4 * rate * k, 4 * rate * k + 9 * rate - 1, 9 * rate) for k in range(3)]
  if variant == "flash":
    assert found[1].audio[0, 0].ravel().tolist() == [2, 3, 4, 5, 6]  # what lies around it in the clip
  assert [one.face_mask[0, 0].tolist() for one in found] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
  assert [one.image.any() for one in found] == [True, anchors, anchors]
  # The middles are at 0.18, 0.34 and 0.5 s.
  assert [one.text["prompt"][0, 0] for one in found] == [0, 0, 1] and found[0].text["negative"][0, 0] == 2
  assert all(one.text.keys() == {"prompt", "negative", "negative 1"} for one in found)


def test_the_source_of_lipsync_moves_with_the_windows():
  inputs = given("lipsync")
  video, mask = window_conditions.given_video(inputs, windows.Window(2, 5))
  np.testing.assert_allclose(video[:, 0, 0, 0], np.arange(8, 17) / 127.5 - 1, atol=1e-6)
  assert mask.shape == (9, 8, 8) and mask[0, 0].all() and not mask[0, 4:].any()
  chunk, known = chunks.begun_with(np.full((5, 8, 8, 3), 255, np.uint8), video, mask)
  assert (chunk[:5] == 1).all() and known[:5].all() and not known[5:, 4:].any()
  np.testing.assert_array_equal(chunk[5:], video[5:])


def test_released_windows_have_all_features_up_to_the_next():
  plan = LongPlan("released", windows.place(9, 5, 2, "released"), 2, 1)
  features = np.arange(66, dtype=np.float32)
  found = [window_conditions.window_audio(variants.of("preview"), features, window, plan)[0] for window in plan.windows]
  assert [(int(row[0]), int(row[-1]) + 1) for row in found] == [(0, 40), (24, 64), (48, 66)]


def test_chunks_come_when_they_are_final():
  plan = LongPlan("chunked", windows.place(8, 5, 2, "chunked"), 2, 1)
  seen = []

  def make(index, before):
    seen.append(None if before is None else before[:, 0, 0, 0].tolist())
    return np.full((17, 2, 2, 3), 100 * index, np.uint8)

  first, second = (piece[:, 0, 0, 0].tolist() for piece in chunks.faded(plan, make))
  assert first == [0] * 12 and second == [0, 25, 50, 75, 100, *[100] * 12]
  assert seen == [None, [0] * 5]


def test_prompts_by_time():
  given = timed_prompts.checked([[0, "one"], [2.5, "two"]])
  assert given == ((0.0, "one"), (2.5, "two")) == timed_prompts.parse('[[0, "one"], [2.5, "two"]]')
  assert [timed_prompts.name_at((0.0, 2.5, 4.0), at) for at in (0, 2.4, 2.5, 9)] == [
      "prompt", "prompt", "prompt 1", "prompt 2"]
  assert Request(audio="a.wav", prompts=[[0, "one"]]).prompts == ((0.0, "one"),)


@pytest.mark.parametrize("prompts, message", [
    ([[0, "a"], [3, "b"], [2, "c"]], "out of order: 2 s comes after 3 s"), ([[0, "a"], [0, "b"]], "each time once"),
    ([[1, "a"]], "begin at 1 s"), ([[0]], r"prompts\[0\] is \[0\]; wanted pairs"), (["a"], "wanted pairs"),
    ([[float("nan"), "a"]], "wanted pairs")])
def test_prompts_that_cannot_be(prompts, message):
  with pytest.raises(InputError, match=message):
    Request(audio="a.wav", prompts=prompts)
  with pytest.raises(InputError, match="leave one of them out"):
    Request(audio="a.wav", prompt="all", prompts=[[0, "a"]])


def test_prompts_that_no_window_has(caplog):
  """Windows of nine frames, whose middles are at 0.18 and 0.34 s."""
  windows_, told = [(0, 9), (4, 9)], lambda: [record.getMessage() for record in caplog.records]
  for times in ((0.0,), (0.0, 0.2), (0.0, 0.34)):
    timed_prompts.warn_of_unused(times, windows_)
  assert not told()
  timed_prompts.warn_of_unused((0.0, 0.1, 0.25, 3.0), windows_)
  assert told() == ["No window has the prompt that begins at 0 s, 3 s: a window has the one in force in its middle, "
                    "here at 0.18, 0.34 s."]


def test_prompts_of_a_command_line_and_of_a_manifest(tmp_path):
  with pytest.raises(InputError, match="--prompts is not JSON"):
    timed_prompts.parse("[[0, a]]")
  lines = ['{"audio": "a.wav", "prompts": [[0, "a"], [2, "b"]]}', '{"audio": "a.wav", "prompts": [[0, "\\ud800"]]}',
           '{"audio": "b.wav", "prompts": [[1, "a"]]}']
  (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
  jobs = read_manifest(tmp_path / "jobs.jsonl")
  assert jobs[0].request.prompts == ((0.0, "a"), (2.0, "b"))
  assert "half a character" in jobs[1].fault and "begin at 1 s" in jobs[2].fault
