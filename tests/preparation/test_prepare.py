"""Preparation from end to end with the tiny networks: what is encoded, bad clips, stopping and going
on."""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest

from emv3_jax.components.config import ModelConfig
from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.data.pipeline import Dataset
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.preparation import __main__ as command
from emv3_jax.preparation import encoding, run, shards
from emv3_jax.preparation.footage import read_footage, stream_windows
from emv3_jax.preparation.manifest import read_manifest
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.puppets import world
from emv3_jax.runtime import config as config_lib
from emv3_jax.sampling import clip as sampling
from emv3_jax.sampling.inputs import read_inputs
from emv3_jax.sampling.model import load
from emv3_jax.sampling.settings import Request
from emv3_jax.variants.flash import FLASH
from tests.preparation.preparing import (
  ARGUMENTS,
  CONFIG,
  SMALL,
  close,
  prepare,
  rows_of,
  write_manifest,
)


@pytest.fixture(scope="module")
def prepared(model, footage, tmp_path_factory) -> pathlib.Path:
  """Two shards: both short clips, and the long one with three windows, each a frame after the last."""
  folder = tmp_path_factory.mktemp("prepared") / "set"
  prepare(model, footage, folder, shard_clips=2, stride=4)
  return folder


def test_the_dataset(prepared, footage, model):
  dataset = Dataset(prepared, model.config.model.transformer)
  index = dataset.index
  assert (index.records, index.clips, index.rejected, len(index.shards)) == (5, 3, 0, 2)
  found = [dataset[number] for number in range(5)]
  assert [(record.id, record.index, record.start) for record in found] == [
      ("train_00000", 0, 0), ("train_00001", 0, 0), ("train_00002", 0, 0), ("train_00002", 1, 4),
      ("train_00002", 2, 8)]
  assert [record.caption for record in found[:3]] == [row["prompt"] for row in rows_of(footage)]
  assert dataset.index.settings["frames"] == 5
  assert dataset.index.encoders["vae"]["digest"] == model.digest("vae")
  batch = next(dataset.batches(5, seed=0))
  assert batch["latents"].shape == (5, 2, 8, 8, 16) and batch["audio"].shape == (5, 10, 64)


def test_sound_of_a_window_has_the_clip_as_context(prepared, footage, model):
  row = rows_of(footage)[2]
  inputs = read_inputs(
      Request(task="lipsync", video=row["video"], audio=row["video"], face_box=row["face_box"]),
      model.config, model.tokenizer_path)
  whole = sampling.encode_audio(model, inputs)[0]
  assert len(whole) == 26
  dataset = Dataset(prepared)
  for number, start in ((2, 0), (3, 4), (4, 8)):
    close(dataset[number].audio, whole[2 * start:2 * start + 10])


def test_long_sound_is_encoded_in_pieces(footage, model):
  """Pieces of 9 frames round windows of 5: at the ends the piece stays inside the clip."""
  settings = PrepareConfig(**{**SMALL, "stride": 4, "sound_frames": 9})
  clip = read_footage(read_manifest(footage)[2], settings)
  got = encoding.encode_sounds(model, [clip], settings)
  with model.parameters("audio_encoder") as params:
    for features, window, first in zip(got, clip.windows, (0, 2, 4), strict=True):
      piece = clip.voice.samples[640 * first:640 * (first + 9)]
      want = encoding._features(model, params, piece, 9)
      close(features, want[2 * (window.start - first):][:10])


def test_flash(flash, footage, tmp_path):
  """Windows at the middle of a clip see the frames before and after them."""
  row = rows_of(footage)[2]
  prepare(flash, write_manifest(tmp_path / "clips.jsonl", [row]), tmp_path / "set", stride=4)
  inputs = read_inputs(
      Request(task="lipsync", video=row["video"], audio=row["video"], face_box=row["face_box"]),
      flash.config, flash.tokenizer_path)
  whole = sampling.encode_audio(flash, inputs)[0]
  dataset = Dataset(tmp_path / "set", flash.config.model.transformer)
  for number, start in enumerate((0, 4, 8)):
    close(FLASH.window_input(dataset[number].audio), whole[start:start + 5])
  assert not np.allclose(whole[4:9], FLASH.windows(whole[4:9, 2])), "context matters"


def test_the_empty_text(prepared, model):
  tokenizer = Tokenizer.load(model.tokenizer_path)
  ids, mask = tokenizer.tokenize([""], model.config.model.transformer.text_tokens)
  want = model.encode_tokens(ids, mask)[0, :1]
  close(Dataset(prepared).empty_text, want)


def test_batch_sizes_change_nothing(prepared, footage, model, tmp_path):
  prepare(model, footage, tmp_path / "set", stride=4, shard_clips=2, text_batch=3, image_batch=3,
          video_batch=4)
  one, other = Dataset(prepared), Dataset(tmp_path / "set")
  for number in range(5):
    for name in ("latents", "masked_latents", "image", "text", "audio"):
      close(getattr(other[number], name), getattr(one[number], name))


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
          if path.is_file()}


def test_what_is_done_is_not_done_again(prepared, footage, model, monkeypatch):
  """Nor where more is to be encoded at once."""
  before = contents(prepared)
  monkeypatch.setattr(shards, "make_shard", lambda *_: pytest.fail("a shard was made again"))
  prepare(model, footage, prepared, shard_clips=2, stride=4, image_batch=3)
  assert contents(prepared) == before


def test_a_stopped_run_goes_on(prepared, footage, model, tmp_path, monkeypatch):
  """Stopped inside the second shard: no index, nothing half-written; then the same bytes."""
  folder, written = tmp_path / "set", []

  def stop(*arguments):
    written.append(arguments)
    if len(written) == 4:
      raise KeyboardInterrupt
    return encode(*arguments)

  encode = shards.records.encode
  with monkeypatch.context() as patch:
    patch.setattr(shards.records, "encode", stop)
    with pytest.raises(KeyboardInterrupt):
      prepare(model, footage, folder, shard_clips=2, stride=4)
  assert sorted(contents(folder)) == ["settings.json", "shards/00000.array_record",
                                      "shards/00000.json"]
  (folder / "shards/.00001.0123abcd.part.array_record").write_bytes(b"of a killed run")
  with pytest.raises(InputError, match="no index.json"):
    Dataset(folder)
  time = (folder / "shards/00000.array_record").stat().st_mtime_ns
  prepare(model, footage, folder, shard_clips=2, stride=4)
  assert (folder / "shards/00000.array_record").stat().st_mtime_ns == time
  assert contents(folder) == contents(prepared)


def test_a_changed_clip_makes_its_shard_anew(footage, model, tmp_path):
  rows = rows_of(footage)[:2]
  manifest = write_manifest(tmp_path / "clips.jsonl", rows)
  prepare(model, manifest, tmp_path / "set", shard_clips=1)
  before = contents(tmp_path / "set")
  write_manifest(manifest, [rows[0], {**rows[1], "prompt": "a puppet waves"}])
  prepare(model, manifest, tmp_path / "set", shard_clips=1)
  after = contents(tmp_path / "set")
  assert Dataset(tmp_path / "set")[1].caption == "a puppet waves"
  same = {name for name in after if after[name] == before[name]}
  assert "shards/00000.array_record" in same and "shards/00001.array_record" not in same


def test_a_lost_shard_is_made_again(footage, model, tmp_path, monkeypatch):
  """Until then the folder is not a dataset."""
  rows = rows_of(footage)[:2]
  manifest = write_manifest(tmp_path / "clips.jsonl", rows)
  prepare(model, manifest, tmp_path / "set", shard_clips=1)
  before = contents(tmp_path / "set")
  (tmp_path / "set/shards/00001.array_record").unlink()
  with monkeypatch.context() as patch:
    patch.setattr(shards, "make_shard", lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception, match="stopped"):
      prepare(model, manifest, tmp_path / "set", shard_clips=1)
  assert not (tmp_path / "set/index.json").exists()
  prepare(model, manifest, tmp_path / "set", shard_clips=1)
  assert contents(tmp_path / "set") == before


def test_other_settings_or_encoders_are_refused(prepared, footage, model):
  before = contents(prepared)
  with pytest.raises(InputError, match="prepared with other settings.*settings.stride: 4 != 3"):
    prepare(model, footage, prepared, shard_clips=2, stride=3)
  other = load(config=dataclasses.replace(model.config, seed=44), parts=run.ENCODERS)
  with pytest.raises(InputError, match=r"digest: '.*-43-.*' != '.*-44-") as caught:
    prepare(other, footage, prepared, shard_clips=2, stride=4)
  assert "a folder of version 0.1 cannot be continued" in str(caught.value)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="settings.numerics"):
    patch.setattr(run, "NUMERICS", 1)  # of a release that read media otherwise
    prepare(model, footage, prepared, shard_clips=2, stride=4)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="settings.face_detector"):
    patch.setattr(run.detect, "IDENTITY", "another")
    prepare(model, footage, prepared, shard_clips=2, stride=4)
  with pytest.raises(InputError, match="shards of a longer manifest"):
    run.prepare(model, PrepareConfig(**{**SMALL, "stride": 4, "shard_clips": 2}),
                read_manifest(footage)[:2], prepared)
  assert contents(prepared) == before


@pytest.mark.slow
def test_a_killed_run_goes_on(model, tmp_path):
  """kill -9 again and again, each time a little later; then the same bytes as a run in peace."""
  manifest = world.write_mp4s(tmp_path / "clips", count=8, frames=5)
  arguments = [f"--config={CONFIG}", f"--manifest={manifest}", *ARGUMENTS,
               "--config.prepare.shard_clips=1", f"--config.program_cache={tmp_path / 'programs'}"]
  folder, seconds, kills = tmp_path / "set", 4.0, 0
  while not (folder / "index.json").exists():
    process = subprocess.Popen([sys.executable, "-m", "emv3_jax.preparation", f"--out={folder}",
                                *arguments], stderr=subprocess.DEVNULL)
    try:
      assert process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      kills, seconds = kills + 1, seconds * 1.2
  assert kills and command.main([f"--out={tmp_path / 'calm'}", *arguments]) == 0
  assert contents(folder) == contents(tmp_path / "calm")


def write_uneven(path: pathlib.Path, frames: np.ndarray) -> None:
  """An MP4 of variable rate: of five frames the third is not there, the second lasts longer."""
  with av.open(str(path), "w") as container:
    pictures = container.add_stream("libx264", rate=25, options={"bf": "0", "crf": "16"})
    pictures.height, pictures.width, pictures.pix_fmt = *frames.shape[1:3], "yuv420p"
    sound = container.add_stream("aac", rate=16000, layout="mono")
    for tick in (0, 1, 3, 4):
      picture = av.VideoFrame.from_ndarray(frames[tick], format="rgb24")
      picture.pts = tick
      container.mux(pictures.encode(picture))
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 3200), np.float32), "fltp", "mono")
    silence.rate = 16000
    for stream, last in ((pictures, [None]), (sound, [silence, None])):
      for frame in last:
        container.mux(stream.encode(frame))


@pytest.fixture(scope="module")
def bad(footage, tmp_path_factory) -> pathlib.Path:
  """A manifest of clips that cannot be used, and of odd ones that can."""
  folder = tmp_path_factory.mktemp("bad")
  good = rows_of(footage)[0]
  whole = pathlib.Path(good["video"])
  frames = video_files.read_video(whole).frames
  sound = np.zeros(3200, np.float32), 16000
  data = pathlib.Path(rows_of(footage)[2]["video"]).read_bytes()
  (folder / "truncated.mp4").write_bytes(data[:len(data) * 2 // 3])
  (folder / "corrupt.mp4").write_bytes(data[:200] + bytes(len(data) - 200))
  (folder / "empty.mp4").write_bytes(b"")
  video_files.write_video(folder / "one_frame.mp4", frames[:1], audio=sound)
  video_files.write_video(folder / "mute.mp4", frames)
  video_files.write_video(folder / "silent.mp4", frames, audio=sound)
  slow = np.repeat(frames, 2, axis=0)
  video_files.write_video(folder / "fast.mp4", slow, fps=50, audio=sound)
  write_uneven(folder / "uneven.mp4", frames)
  rows = [{**good, "id": name, "video": str(folder / f"{name}.mp4")}
          for name in ("truncated", "corrupt", "empty", "one_frame", "mute", "missing", "silent",
                       "fast", "uneven")]
  rows += [{**good, "id": "long_caption", "prompt": ("a puppet waves and " * 527)[:10_000]},
           {**good, "id": "no_caption", "prompt": ""},
           {**good, "id": "bad_box", "face_box": "0,99,0,99"}, {"id": "no_video", "prompt": ""}]
  return write_manifest(folder / "clips.jsonl", rows)


def test_bad_clips_are_told_and_the_others_prepared(bad, tmp_path, caplog):
  folder = tmp_path / "set"
  arguments = [f"--config={CONFIG}", f"--manifest={bad}", f"--out={folder}", *ARGUMENTS]
  assert command.main(arguments) == 1
  reasons = {entry["id"]: entry["reason"]
             for entry in map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())}
  said = {"truncated": "truncated.mp4 is cut short", "corrupt": "corrupt.mp4", "empty": "is empty (0 bytes)",
          "one_frame": "pictures last 0.04 s (1 frames)", "mute": "mute.mp4 has no sound track",
          "missing": "missing.mp4: no such file", "bad_box": "outside the image",
          "no_video": "video missing"}
  assert reasons.keys() == said.keys()
  for name, words in said.items():
    assert words in reasons[name]
  dataset = Dataset(folder)
  records = {dataset[n].id: dataset[n] for n in range(len(dataset))}
  assert records.keys() == {"silent", "fast", "uneven", "long_caption", "no_caption"}
  assert len(records["no_caption"].text) == 1
  assert len(records["long_caption"].text) == 64 and len(records["long_caption"].caption) == 10_000
  assert "Clip no_caption" in caplog.text and "is cut to 64" in caplog.text
  again = contents(folder)
  assert command.main([*arguments, "--skip_bad"]) == 0
  assert contents(folder) == again


def test_another_frame_rate_is_resampled_by_time(bad, model, tmp_path):
  rows = [row for row in rows_of(bad) if row["id"] in ("silent", "fast", "uneven")]
  settings, shown = PrepareConfig(**SMALL), []
  for clip in read_manifest(write_manifest(tmp_path / "clips.jsonl", rows)):
    (_, pictures), = stream_windows(read_footage(clip, settings), settings)
    shown.append(pictures.astype(int))
  silent, fast, uneven = shown
  assert np.abs(silent - fast).mean() < 3
  assert np.abs(silent[[0, 1, 1, 3, 4]] - uneven).mean() < 3
  same = [np.array_equal(one, other) for one, other in itertools.pairwise(uneven)]
  assert same == [False, True, False, False]


def test_no_clip_left(bad, model, tmp_path):
  rows = [row for row in rows_of(bad) if row["id"] in ("mute", "missing")]
  with pytest.raises(InputError, match="No clip could be used; the first: .*mute.mp4"):
    prepare(model, write_manifest(tmp_path / "clips.jsonl", rows), tmp_path / "set")
  assert len((tmp_path / "set/rejected.jsonl").read_text().splitlines()) == 2
  assert not (tmp_path / "set/index.json").exists()


def test_two_sizes_make_two_buckets(footage, model, tmp_path):
  rows = rows_of(footage)
  wide = tmp_path / "wide.mp4"
  frames = video_files.read_video(rows[0]["video"]).frames
  video_files.write_video(wide, frames[:, 16:48], audio=(np.zeros(3200, np.float32), 16000))
  rows = [{**rows[0], "id": "wide", "video": str(wide), "face_box": "8,30,10,50",
           "mouth_box": "20,28,20,40"}, rows[1]]
  index = prepare(model, write_manifest(tmp_path / "clips.jsonl", rows), tmp_path / "set",
                  sizes=((64, 64), (32, 64)))
  assert index.shards[0].runs == ((0, 1), (1, 1))
  dataset = Dataset(tmp_path / "set")
  assert [dataset[n].id for n in range(2)] == ["train_00001", "wide"]
  assert dataset[1].latents.shape == (2, 4, 8, 16) and dataset[1].face_box.tolist() == [[0, 1, 0, 3]] * 5
  shapes = {next_batch["latents"].shape[2:4]
            for next_batch, _ in zip(dataset.batches(1, seed=0), range(2), strict=False)}
  assert shapes == {(8, 8), (4, 8)}


@pytest.mark.parametrize("arguments, said", [
    (["--out=x"], "--manifest is missing"), (["--manifest=x"], "--out is missing"),
    (["--manifest=x", "--out=y"], "Manifest x cannot be read"),
    (["--manifest=x", "--out=gs://b/y"], "Output folder gs://b/y is an address"),
    (["--config.prepare.frame=5"], "did you mean 'frames'"),
    (["--config.prepare.frames=6"], "must be 4k\\+1")])
def test_wrong_commands(arguments, said):
  with pytest.raises(InputError, match=said):
    command.main([f"--config={CONFIG}", *arguments])


def test_without_a_config_the_networks_are_the_checkpoints(footage, tmp_path):
  with pytest.raises(InputError, match="No checkpoint named; pass --checkpoint=DIR"):
    command.main([f"--manifest={footage}", f"--out={tmp_path / 'set'}"])
  assert not (tmp_path / "set").exists()


def test_the_default_config_is_the_released_size():
  _, config, settings = command.read_settings(None, ["prepare.frames=81"])
  assert config is None and settings.frames == 81
  assert config_lib.build(ModelConfig, {}) == ModelConfig()
  for height, width in settings.sizes:
    assert (height // 16) * (width // 16) % 8 == 0, "tokens divide over a context of 8"
    assert 0.9 < height * width / (480 * 832) < 1.1
