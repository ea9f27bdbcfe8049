"""Clips that the model made: records hold the task and the conditions that they were sampled under."""

import dataclasses
import json
import os
import pathlib

import numpy as np
from PIL import Image
import pytest
import soundfile

from emv3_jax import variants
from emv3_jax.conditioning import image as image_lib
from emv3_jax.data.pipeline import Dataset, collate
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.io.digests import file_digest_now
from emv3_jax.preparation import generated as generated_lib
from emv3_jax.preparation import reports
from emv3_jax.preparation.manifest import Clip, read_manifest
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.sampling import clip as clip_lib
from emv3_jax.sampling import one_window, output, streaming
from emv3_jax.sampling.settings import Request
from emv3_jax.tasks import names
from emv3_jax.training.curriculum import Mixture, Stage
from emv3_jax.training.input.prefetch import make_batch
from tests.data.given import check_same, in_training
from tests.preparation.preparing import SMALL, close, prepare, rows_of, write_manifest

SETTINGS = PrepareConfig(**SMALL)
# Seconds of the voice by task. Four frames of flf2v are sampled as five.
SECONDS = {"t2v": 0.2, "i2v": 0.2, "flf2v": 0.16, "lipsync": 0.2}
SAVED = "flf2v"  # with its latents


@pytest.fixture(scope="module")
def files(footage, tmp_path_factory) -> dict[str, pathlib.Path]:
  """Two portraits, a voice of 10 frames and a video; none of them looks or sounds like another."""
  folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
  paths = {"audio": folder / "voice.wav", "image": folder / "portrait.png",
           "last_image": folder / "last.png", "video": pathlib.Path(rows_of(footage)[2]["video"])}
  soundfile.write(paths["audio"], 0.1 * rng.standard_normal(6400), 16000)
  for name in ("image", "last_image"):
    Image.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8)).save(paths[name])
  return paths


def request_of(files, task: str, variant: str = "preview") -> Request:
  masked = task == "lipsync" or variant == "preview" and task != "t2v"
  wanted = {"t2v": (), "i2v": ("image",), "flf2v": ("image", "last_image"), "lipsync": ("video",)}
  return Request(audio=files["audio"], prompt=f"a puppet, {task}", task=task, seconds=SECONDS[task],
                 seed=3, face_box="16,48,16,48" if masked else None,
                 **{field: files[field] for field in wanted[task]})


def lengthened(folder: pathlib.Path, rng) -> None:
  """From the clip of i2v one of nine frames with its latents."""
  values = json.loads((folder / "i2v.json").read_text())
  values = {**values, "frames": 9, "request": {**values["request"], "seconds": 0.36}}
  video_files.write_video(folder / "long.mp4", np.zeros((9, 384, 384, 3), np.uint8))
  np.save(folder / "long.latents.npy", rng.standard_normal((3, 8, 8, 16)).astype(np.float32))
  for name, ending in (("video", "mp4"), ("latents", "latents.npy")):
    values[name] = {"sha256": file_digest_now(folder / f"long.{ending}")}
  (folder / "long.json").write_text(json.dumps(values))


def sampled(model, request: Request, video: pathlib.Path, save_latents: bool = False):
  """Samples and writes a clip with noise in the place of the transformer's latents and of the decoder's
  pictures; returns the conditions that the transformer would have had."""
  rng, given = np.random.default_rng(len(video.name)), []

  def denoise(model, inputs, conditions, profile, progress):
    given.append(conditions)
    return rng.standard_normal((*conditions.condition.shape[1:4], 16)).astype(np.float32)

  def decode_groups(model, latents, profile):
    frames = rng.integers(0, 256, (4 * len(latents) - 3, 4, 4, 3), np.uint8)
    yield streaming.Group(
        image_lib.resize_lanczos(frames, (8 * latents.shape[1], 8 * latents.shape[2])), latents)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(one_window, "denoise", denoise)
    patch.setattr(clip_lib, "decode_groups", decode_groups)
    clip = clip_lib.sample(model, request)
  output.write(clip, video, save_latents=save_latents)
  return given[0], clip


@dataclasses.dataclass
class Made:
  model: object
  folder: pathlib.Path
  conditions: dict
  clips: dict
  dataset: Dataset


@pytest.fixture(scope="module", params=["preview", "flash"])
def made(request, files, footage, tmp_path_factory) -> Made:
  """Clips of all tasks, and between them an ordinary one and two lines that cannot be used."""
  model = request.getfixturevalue({"preview": "model", "flash": "flash"}[request.param])
  folder, results = tmp_path_factory.mktemp("made"), {}
  for name in SECONDS:
    asked = request_of(files, name, request.param)
    results[name] = sampled(model, asked, folder / f"{name}.mp4", name == SAVED)
  lengthened(folder, np.random.default_rng(7))
  lines = [{"id": name, "video": f"{name}.mp4", "report": f"{name}.json"}
           for name in (*SECONDS, "long")]
  lines[1:1] = [rows_of(footage)[0], {"id": "typed", "video": "t2v.mp4", "report": ["t2v.json"]},
                {"id": "untold", "video": "t2v.mp4", "report": "absent.json"}]
  index = prepare(model, write_manifest(folder / "clips.jsonl", lines), folder / "set")
  assert (index.records, index.rejected) == (6, 2)
  assert index.made_by == model.digest("transformer")
  return Made(model, folder, *({name: result[part] for name, result in results.items()}
                               for part in (0, 1)), Dataset(folder / "set"))


def record_of(made: Made, name: str):
  return next(record for record in map(made.dataset.__getitem__, range(6)) if record.id == name)


@pytest.mark.parametrize("name", ["t2v", "i2v", "flf2v", "lipsync"])
def test_a_negative_has_the_conditions_that_it_was_sampled_under(made, name, monkeypatch):
  """Whatever the stage's mixture says."""
  record, config = record_of(made, name), made.model.config.model.transformer
  batch = collate([record], np.arange(1), config.text_tokens, variants.of(config.variant))
  batch = make_batch(0, 0, Stage("negatives", 1, Mixture(i2v=1.0, lipsync=1.0)), batch, face_mask="moving")
  assert names()[batch.task[0]] == record.task == name and record.caption == f"a puppet, {name}"
  check_same(in_training(made.model, batch), made.conditions[name], config.variant)


def test_the_last_picture_stands_over_frames_that_were_dropped(made):
  """Frames 3 and 4, of which the video shows one: three channels of the last latent, less the first."""
  np.testing.assert_array_equal(record_of(made, "flf2v").task_mask[1, 0, 0], [0, 0, 1, 1])


def test_saved_latents_are_taken_as_they_are(made):
  np.testing.assert_array_equal(record_of(made, SAVED).latents, made.clips[SAVED].latents)


def test_else_the_video_is_encoded_as_it_was_written(made):
  """A pasted lip-sync too."""
  for name in ("i2v", "lipsync"):
    frames = video_files.read_video(made.folder / f"{name}.mp4").frames
    assert frames.shape[1:3] == (384, 384), "enlarged six times"
    pixels = image_lib.to_pixels(image_lib.resize_lanczos(frames, (64, 64)))
    with made.model.parameters("vae") as params:
      close(record_of(made, name).latents, made.model.vae_encode(params, pixels[None])[0])


def test_a_longer_clip_is_cut_to_the_window(made):
  """Its sound was heard whole."""
  record, shorter = record_of(made, "long"), record_of(made, "i2v")
  latents = np.load(made.folder / "long.latents.npy")
  np.testing.assert_array_equal(record.latents, latents[:2])
  for name in ("masked_latents", "task_mask", "image", "face_mask", "text"):
    np.testing.assert_array_equal(getattr(record, name), getattr(shorter, name))
  line = Clip(1, "long", made.folder / "long.mp4", "", report=made.folder / "long.json")
  inputs = generated_lib.read_generated(line, SETTINGS, made.model).inputs
  variant = variants.of(made.model.config.model.transformer.variant)
  whole = clip_lib.encode_audio(made.model, inputs)[0]
  close(variant.window_input(record.audio), whole[:5 * variant.features_per_frame])
  assert inputs.sample_frames == 9 and not np.allclose(record.audio, shorter.audio)


def test_ordinary_clips_beside_them_are_for_any_task(made):
  assert [made.dataset[number].task for number in range(6)] == [
      "t2v", "", "i2v", "flf2v", "lipsync", "i2v"]
  rejected = {entry["id"]: entry["reason"] for entry in map(
      json.loads, (made.folder / "set/rejected.jsonl").read_text().splitlines())}
  assert "report is ['t2v.json'], expected a string" in rejected["typed"]
  assert "absent.json: no such file" in rejected["untold"]


def test_a_pipe_is_no_report(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(InputError, match="Report .*pipe is a pipe; give a file."):
    reports.read_report(tmp_path / "pipe")


@pytest.fixture
def one(made, tmp_path):
  """(clip of i2v in a folder of its own, its report's values), for changes."""
  for ending in ("mp4", "json"):
    (tmp_path / f"i2v.{ending}").write_bytes((made.folder / f"i2v.{ending}").read_bytes())
  clip = Clip(1, "i2v", tmp_path / "i2v.mp4", "", report=tmp_path / "i2v.json")
  return clip, json.loads(clip.report.read_text())


def change(values: dict, name: str, value) -> dict:
  """A copy with a dotted field set, or removed where the value is None."""
  first, _, rest = name.partition(".")
  if rest:
    return {**values, first: change(values[first], rest, value)}
  return {key: old for key, old in values.items() if key != first} | (
      {} if value is None else {first: value})


def refused(made: Made, clip: Clip, said: str, **settings) -> None:
  with pytest.raises(InputError, match=said):
    generated_lib.read_generated(clip, dataclasses.replace(SETTINGS, **settings), made.model)


@pytest.mark.parametrize("name, value, said", [
    ("request", None, "is of another release, or no report: it has no request"),
    ("request", [1], "is damaged: request is .1., expected dict"),
    ("request.task", None, "names no task"), ("request.task", "v2v", "Unknown task 'v2v'"),
    ("request.task", 3, "Unknown task 3|task is 3"),
    ("request.colour", "red", "request has no field 'colour'"),
    ("request.image", None, "Task i2v needs image"), ("request.audio", 3, "request.audio is 3"),
    ("request.task", "lipsync", "Task lipsync needs video|does not use image"),
    ("request.image", "absent.png", "its image absent.png is not there; a relative path"),
    ("request.seconds", 0.16, "tells of 5 frames, its audio .* makes 4: it has changed"),
    ("files.image", "0" * 64, "its image .* has changed since the clip was sampled"),
    ("frames", "5", "frames is '5', expected int"), ("frames", -5, "is damaged: -5 frames"),
    ("frames", 9, "tells of 9 frames, its audio .* makes 5"),
    ("frames", 4, "too short: it has 4 frames, a window takes 5; make it longer, or .*--save_latents"),
    ("size.height", 65, "is damaged: 5 frames of 64x65 pixels"),
    ("size.height", 32, "sampled at 64x32 pixels .* add .32, 64. to --config.prepare.sizes"),
    ("video.sha256", "0" * 64, "i2v.mp4 is not the one of its report"),
    ("video", None, "of another release, or no report: it has no video.sha256"),
    ("latents", {"sha256": "0" * 64}, "i2v.latents.npy cannot be read: No such file"),
    ("tokenizer", "0" * 64, "another model .*tokenizer"),
    ("config.model.transformer.text_dim", 7, "another model .*text_dim: 7 != 64"),
    ("networks", {"vae": "0" * 64}, "another model .*weights of vae"),
    ("networks", "none", "networks is 'none', expected dict")])
def test_reports_that_do_not_fit(made, one, name, value, said):
  clip, values = one
  clip.report.write_text(json.dumps(change(values, name, value)))
  refused(made, clip, said)


@pytest.mark.parametrize("text, said", [
    ("", "is no JSON or damaged"), ("[]", "it has no request"), ("[" * 100_000, "no JSON or damaged"),
    ('{"request": {"task": "i2v"', "is no JSON or damaged"),
    ('{"request": {"task": "i2v", "seconds": Infinity}}', "Infinity is no number"),
    ('{"request": {"task": "i2v", "prompt": "\\ud800"}}', "no JSON or damaged")])
def test_damaged_reports(made, one, text, said):
  clip, _ = one
  clip.report.write_text(text)
  refused(made, clip, said)


def test_windows_that_the_clip_does_not_fill(made, one):
  clip, _ = one
  refused(made, clip, "too short: it has 5 frames, a window takes 9; set .*frames=5.$", frames=9)
  report = made.folder / "flf2v.json"
  clip = Clip(1, "flf2v", made.folder / "flf2v.mp4", "", report=report)
  assert generated_lib.read_generated(clip, SETTINGS, made.model).latents is not None
  longer = dataclasses.replace(clip, report=clip.video.with_name("longer.json"))
  longer.report.write_text(json.dumps({**json.loads(report.read_text()), "frames": 9}))
  refused(made, longer, "too long: of its 9 frames a window takes 5, .* set .*frames=9")


def test_latents_that_are_not_those_of_the_report(made, one):
  clip, values = one
  path = clip.video.with_suffix(".latents.npy")
  np.save(path, np.zeros((2, 8, 8, 4), np.float32))
  assert generated_lib.read_generated(clip, SETTINGS, made.model).latents is None, "the report tells of none"
  clip.report.write_text(json.dumps({**values, "latents": {"sha256": file_digest_now(path)}}))
  refused(made, clip, r"are float32 .2, 8, 8, 4., wanted finite float32 .2, 8, 8, 16.")
  np.save(path, np.zeros((2, 8, 8, 16), np.float32))
  refused(made, clip, "are not those of the report")


def test_a_clip_that_is_written_anew_loses_latents_of_the_old_one(made, one):
  clip, _ = one
  output.latents_path(clip.video).write_bytes(b"of a clip before")
  output.write(made.clips["i2v"], clip.video)
  assert not output.latents_path(clip.video).exists()


def test_weights_that_made_the_clips_are_told(model, files, tmp_path, caplog):
  """The digest of one, then of two, joined; a shard that is kept keeps its own."""
  clips = {name: request_of(files, "i2v") for name in ("a", "b", "c")}
  for name, request in clips.items():
    sampled(model, request, tmp_path / f"{name}.mp4")
  lines = [{"id": name, "video": f"{name}.mp4", "report": f"{name}.json"} for name in clips]

  def told(*digests: str) -> str:
    for name, digest in zip(clips, digests, strict=True):
      path = tmp_path / f"{name}.json"
      networks = {"transformer": digest} if digest else {}
      path.write_text(json.dumps({**json.loads(path.read_text()), "networks": networks}))
    manifest = write_manifest(tmp_path / "clips.jsonl", lines)
    return prepare(model, manifest, tmp_path / "set", shard_clips=2).made_by

  assert told("f1", "f1", "f1") == "f1" and "different weights" not in caplog.text
  assert told("f1", "f1", "e2") == "e2, f1" and "weights according to their reports: e2, f1" in caplog.text
  assert told("f1", "f1", "") == "f1" and "reports: unknown, f1" in caplog.text


def test_lines_with_a_report(tmp_path, caplog):
  lines = [{"id": "a", "video": "a.mp4", "report": "a.json"},
           {"id": "b", "video": "b.mp4", "report": "/b.json", "prompt": "x", "face_box": "none"},
           {"id": "c", "report": "c.json"}]
  clips = read_manifest(write_manifest(tmp_path / "clips.jsonl", lines))
  assert clips[0] == Clip(1, "a", tmp_path / "a.mp4", "", report=tmp_path / "a.json")
  assert clips[1].report == pathlib.Path("/b.json") and clips[1].prompt == ""
  assert "Clip b (line 2): prompt and face_box of the line is not used" in caplog.text
  assert "empty prompt" not in caplog.text
  assert "video missing; wanted id, video and prompt, or id, video and report" in clips[2].fault
