"""Parts of preparation without networks: where windows end, pieces, and what a shard is kept for."""

import dataclasses
import json
import os
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from emv3_jax.conditioning.audio import Voice
from emv3_jax.data.index import SHARDS, Shard
from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.preparation import encoding, footage, shards
from emv3_jax.preparation.footage import read_footage
from emv3_jax.preparation.framing import nearest_size
from emv3_jax.preparation.generated import make_record
from emv3_jax.preparation.manifest import Clip
from emv3_jax.preparation.settings import PrepareConfig
from emv3_jax.tasks import names, of
from emv3_jax.variants.flash import FLASH
from emv3_jax.variants.preview import PREVIEW

SETTINGS = PrepareConfig(frames=5, stride=4, sizes=((32, 32),))


@pytest.mark.parametrize("heard, starts", [(20, [0, 4, 8]), (13, [0, 4, 8]), (12, [0, 4]), (5, [0]), (4, None)])
def test_windows_end_with_pictures_or_sound(tmp_path, monkeypatch, heard, starts):
  """13 pictures, and sound of more frames or fewer."""
  path = tmp_path / "clip.mp4"
  video_files.write_video(path, np.zeros((13, 32, 32, 3), np.uint8))
  voice = Voice(np.ones(640 * heard, np.float32), heard / 25)
  monkeypatch.setattr(footage.audio_lib, "load_voice", lambda _: voice)
  read = lambda: read_footage(Clip(1, "a", path, "", face_box="4,28,4,28"), SETTINGS)
  if starts is None:
    with pytest.raises(InputError, match=r"its sound last 0.16 s \(4 frames\)"):
      read()
  else:
    assert [window.start for window in read().windows] == starts


def test_sizes_are_compared_by_the_ratio_of_their_sides():
  """So that turned pictures take turned sizes."""
  assert nearest_size(100, 160, ((100, 125), (100, 200))) == (100, 200)
  assert nearest_size(160, 100, ((125, 100), (200, 100))) == (200, 100)


@pytest.fixture
def clip(tmp_path) -> Clip:
  (tmp_path / "a.mp4").write_bytes(b"pictures")
  return Clip(1, "a", tmp_path / "a.mp4", "words")


def touched(path, data: bytes, seconds: int) -> None:
  path.write_bytes(data)
  os.utime(path, ns=(0, seconds * 10 ** 9))


def test_clips_are_known_by_line_size_and_time(clip):
  """Boxes in a file and all that belongs to a report too."""
  touched(clip.video, b"pictures", 5)
  known = shards.clips_digest([clip])
  assert known == shards.clips_digest([dataclasses.replace(clip)])
  assert known != shards.clips_digest([dataclasses.replace(clip, prompt="other words")])
  boxes, report = clip.video.with_name("box.npy"), clip.video.with_name("a.json")
  for changed, lines in ((clip.video, clip), (boxes, dataclasses.replace(clip, face_box=str(boxes))),
                         (report, dataclasses.replace(clip, report=report)),
                         (clip.video.with_name("a.latents.npy"),
                          dataclasses.replace(clip, report=report))):
    found = {shards.clips_digest([lines])}
    for content in ((b"pictures", 5), (b"pictures", 6), (b"other pictures", 6)):
      touched(changed, *content)
      found.add(shards.clips_digest([lines]))
    assert len(found) == (3 if changed is clip.video else 4), changed


def test_a_shard_is_kept_while_it_is_whole_and_of_these_clips(clip, tmp_path):
  (tmp_path / SHARDS).mkdir()
  file = f"{SHARDS}/00003.array_record"
  note = shards.ShardNote(shards.clips_digest([clip]), Shard(file, 5, ((0, 1),)), 1, ())
  path = tmp_path / SHARDS / "00003.json"
  kept = lambda *clips: shards.read_note(tmp_path, 3, clips)
  assert kept(clip) is None, "there is no note"
  path.write_text(json.dumps(dataclasses.asdict(note)))
  assert kept(clip) is None, "there is no shard"
  for size, whole in ((4, False), (5, True), (6, False)):
    (tmp_path / file).write_bytes(bytes(size))
    assert (kept(clip) == note) == whole
  (tmp_path / file).write_bytes(bytes(5))
  assert kept() is None and kept(clip, clip) is None
  path.write_text(json.dumps(dataclasses.asdict(note))[:-2])
  assert kept(clip) is None
  path.write_text(json.dumps({**dataclasses.asdict(note), "shard": None}))
  assert kept(clip).shard is None, "of clips none of which can be used"


@pytest.mark.parametrize("stride, starts", [(5, [0]), (4, [0, 4]), (3, [0, 3]), (1, [0, 1, 2, 3, 4])])
def test_windows_that_hold_the_fifth_frame(stride, starts):
  assert list(footage._starts(4, dataclasses.replace(SETTINGS, stride=stride))) == starts


def test_parts_are_filled_with_their_last_item():
  assert [encoding._padded(part, 2) for part in encoding._chunks(range(3), 2)] == [[0, 1], [2, 2]]


@pytest.mark.parametrize("task", [of(name) for name in names()], ids=names())
def test_a_record_of_a_made_clip(task):
  """Nine frames of which five are taken: of a mouth only where lip-sync draws one anew."""
  rng = np.random.default_rng(0)
  known = rng.normal(size=(2, 4, 4, 20))
  known[..., :4] = rng.random((2, 4, 4, 1)) < 0.5
  clip = SimpleNamespace(size=(32, 32), clip=Clip(1, "a", pathlib.Path(), "words"),
                         report=SimpleNamespace(task=task, video="sha256"),
                         inputs=SimpleNamespace(face_mask=None, face_tokens=None))
  settings = dataclasses.replace(SETTINGS, frames=5)
  audio = rng.normal(size=(18, 8))
  record = make_record(clip, settings, np.zeros((2, 4, 4, 16)), known, np.zeros((1, 8)), np.zeros((3, 8)),
                       audio, PREVIEW)
  np.testing.assert_array_equal(record.audio, audio[:10])
  np.testing.assert_array_equal(record.masked_latents, known[None, ..., 4:])
  assert record.task == task.name and record.face_box.tolist() == [[0, 2, 0, 2]] * 5
  drawn = 1 - known[..., 0]
  np.testing.assert_array_equal(record.mouth_mask, drawn if task.inpaints_mouth else 0 * drawn)
  heard = make_record(clip, settings, record.latents, known, record.text, np.zeros((3, 8)),
                      np.arange(9.0)[:, None, None] * np.ones((2, 8)), FLASH).audio
  assert heard.shape == (9, 2, 8) and heard[:, 0, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]
