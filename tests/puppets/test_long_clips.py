"""Long clips of puppets: what they say, what is read from their files, how it is summed up and shown."""

import dataclasses
import io
import json
import types

import numpy as np
from PIL import Image
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io import video_files
from emv3_jax.puppets.judging import long_clips, long_table
from emv3_jax.puppets.world import clip_spec, mouth_curve
from emv3_jax.puppets.world.sentences import sentences, speech
from scripts import long_tiny, show_tiny
from tests.puppets.actors import clips


def test_sentences_follow_one_another_without_pause_or_repetition(monkeypatch):
  held_out, train = sentences("held_out")[:3], sentences("train")[:2]
  monkeypatch.setattr(long_clips, "sentences", {"held_out": held_out, "train": train}.get)
  cut = {spoken.name: long_clips.without_pauses(speech(spoken.name)) for spoken in held_out + train}
  frames = sum(len(cut[spoken.name]) for spoken in held_out) // 640 + 10
  sound, names = long_clips.voice(frames, seed=0)
  assert set(names[:3]) == {spoken.name for spoken in held_out} and len(names) == 4 and names[3] in cut
  np.testing.assert_array_equal(sound, np.concatenate([cut[name] for name in names])[:frames * 640])
  assert len({tuple(long_clips.voice(frames, seed)[1]) for seed in (1, 3)}) > 1
  assert mouth_curve(sound, 16000, frames)[5:-5].min() > 0.02  # between sentences it hardly has time to shut
  with pytest.raises(InputError, match="a clip of 400 s without repeated sound cannot be made"):
    long_clips.voice(10_000, seed=0)


def test_puppets_that_move(monkeypatch):
  monkeypatch.setattr(long_clips.world, "render_clip", lambda spec: spec)
  found = long_clips.puppets(12, seed=2)
  known = [clip_spec(2, index, "held_out", long_clips.BOXED) for index in range(40)]
  assert found == [spec for spec in known if spec.gesture != "stays calm"][:12] and found != known[:12]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
  """A true clip of 65 frames, written three times as large."""
  clip, path = clips()[0], tmp_path_factory.mktemp("judged") / "clip.mp4"
  video_files.write_video(path, np.kron(clip.frames, np.ones((1, 3, 3, 1), np.uint8)), audio=(clip.audio, 16000))
  return clip, path, long_clips.judge(path, clip.truth.opening, [(20, 40)])


def test_a_true_clip_is_judged_by_its_file(judged):
  clip, path, shown = judged
  assert shown.figures["frames"] == 65 and shown.figures["lip_sync"]["r"] > 0.95
  assert [seam["frame"] for seam in shown.figures["seams"]] == [20, 40]
  np.testing.assert_array_equal(shown.truth.true, clip.truth.opening)
  with pytest.raises(InputError, match="has 65 frames; 64 were to be made"):
    long_clips.judge(path, clip.truth.opening[:-1])
  video_files.write_video(path.with_name("wide.mp4"), np.zeros((2, 64, 128, 3), np.uint8))
  with pytest.raises(InputError, match="pictures of 128x64; a puppet's are a multiple of 64x64"):
    long_clips.judge(path.with_name("wide.mp4"), clip.truth.opening)


def test_what_changes_at_a_border_by_chance():
  figures = {"seams": [{"frame": 4}, {"frame": 8}], "median_change": 2.0, "curves": {"change": [0.0] + [3.0] * 12}}
  figures["curves"]["change"][4] = 50.0
  assert long_clips.seam_by_chance(figures) == pytest.approx(1.5)
  assert long_clips.seam_by_chance({**figures, "seams": []}) is None


def kept(judged, **changes) -> dict:
  shown = judged[2]
  return {"puppet": "Iris", "figures": {**shown.figures, **changes}, "seam_by_chance": 1.5, "sentences": ["a", "b"],
          "seen": shown.truth.seen.tolist(), "true": shown.truth.true.tolist(), "seconds": {"made": 2.0, "judged": 1.0, "of_processors": 4.0}}


def test_figures_are_summed_up(judged):
  seams = lambda *ratios: [{"frame": 20, "ratio": ratio} for ratio in ratios]
  two = [kept(judged, sharpness_ratio=0.9, colour_drift=3.0, seams=seams(1, 2), luminance={"inside": 5, "outside": 4}),
         kept(judged, sharpness_ratio=1.1, colour_drift=1.0, seams=seams(3), luminance={"inside": None, "outside": 4})]
  short = [[kept(judged, colour_drift=0.5)], [kept(judged, colour_drift=1.5)]]
  found = long_table.summary(two, short)
  assert found["frames"] == [65, 65] and (found["largest_seam"], found["typical_seam"]) == (3, 2)
  assert found["sharpness_ratio"] == pytest.approx(1) and found["least_sharpness_ratio"] == 0.9
  assert (found["colour_drift"], found["short_colour_drift"], found["luminance_step"]) == (2, 1, 1)
  low, high = found["r_interval"]
  assert low <= found["r"] + 0.02 and found["r"] == found["short_r"] and high <= 1
  assert "| 3.00 (1.50) | 1.00 (0.90) | 2.00 / 1.00 = 2.0 |" in long_table.table({"blended": found})
  assert found["seconds"] == {"made": 2, "judged": 1, "of_processors": 4}
  row = long_table.row(two[0])
  assert row["puppet"] == "Iris" and row["sentences"] == 2 and "curves" not in row
  json.dumps([found, row], allow_nan=False)
  picture = np.asarray(long_table.draw({"blended": two, "paper": two}))
  assert picture.shape[2] == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 4


def test_what_docs_show_is_written(judged, tmp_path, monkeypatch):
  monkeypatch.setattr(long_tiny, "DOCS", tmp_path)
  for folder in ("images", "evidence"):
    (tmp_path / folder).mkdir()
  (tmp_path / "long_video.md").write_text("Before.\n<!-- table -->\n| old |\n<!-- table -->\nAfter.\n")
  clips_ = {"blended": [kept(judged)]}
  found = {"blended": long_table.summary(clips_["blended"], [[kept(judged)]])}
  model = types.SimpleNamespace(folder=None, card=None, config=types.SimpleNamespace(settings=long_tiny.LongConfig()))
  long_tiny.write(model, clips_, found, types.SimpleNamespace(seconds=60.0, clips=1, short=1, world=2))
  text = (tmp_path / "long_video.md").read_text()
  assert text == f"Before.\n<!-- table -->\n{long_table.table(found)}<!-- table -->\nAfter.\n" and "old" not in text
  evidence = json.loads((tmp_path / "evidence/long.json").read_text())
  assert long_table.table(evidence["modes"]) == long_table.table(found) and evidence["each"]["blended"][0]["puppet"] == "Iris"
  assert (tmp_path / "images/long_video.png").stat().st_size > 1000


def test_ways_fit_the_window():
  known = long_tiny.ways(129)
  assert known["no_anchor"].anchor is False and known["half_overlap"].overlap == 61 and known["window_65"].window == 65
  assert {config.mode for config in known.values()} == {"blended", "paper", "paper_literal", "released", "chunked"}
  assert "window_65" not in long_tiny.ways(65) and long_tiny.ways(65)["half_overlap"].overlap == 29
  assert all(dataclasses.replace(config) == config for config in known.values())


@pytest.mark.parametrize("flags, said", [
    (["--seconds=1"], "at least one clip of each kind is needed, and 2.6 s"), (["--clips=0"], "--clips=0"),
    (["--modes=blended,papers"], "--modes knows no papers; there are blended, paper")])
def test_flags_that_cannot_be(tmp_path, flags, said):
  with pytest.raises(InputError, match=said):
    long_tiny.main([f"--out={tmp_path}", *flags])


def test_a_picture_as_large_as_fits(judged, tmp_path, monkeypatch):
  """The curve that is seen is that of the truth; less room makes a smaller picture, too little is an error."""
  shown = show_tiny.read(judged[1])
  assert np.corrcoef(shown.true, shown.seen)[0, 1] > 0.9 and len(shown.sound) == 640 * len(shown.pictures)
  short = show_tiny.Shown(shown.pictures[:12], shown.sound[:12 * 640], shown.true[:12], shown.seen[:12])
  whole = Image.open(io.BytesIO(show_tiny.animation(short)))
  assert (whole.size, whole.n_frames, whole.info["duration"]) == ((256, 368), 12, 40)
  monkeypatch.setattr(show_tiny, "LIMIT", 60_000)
  less = Image.open(io.BytesIO(show_tiny.animation(short)))
  assert less.size[0] < 256 and less.n_frames < 12
  monkeypatch.setattr(show_tiny, "LIMIT", 1000)
  with pytest.raises(InputError, match="of 0 s does not fit 0.001 MB"):
    show_tiny.animation(short)
  with pytest.raises(InputError, match="Give --clip of a clip that is there, or --seconds"):
    show_tiny.main([f"--out={tmp_path / 'a.gif'}"])
