"""Shards, shapes, and what waits for what; thousands of lines."""

import dataclasses
import json
import time

import av
import numpy as np
from PIL import Image
import pytest

from emv3_jax.errors import InputError
from emv3_jax.jobs import shapes, shards
from emv3_jax.jobs.manifest import check_jobs, dependencies, read_manifest
from emv3_jax.sampling.settings import Config, Request, SamplingConfig
from tests.jobs.stub import jobs

CONFIG = Config("released")


def numbered(lines) -> list[int]:
  return [job.line for job in lines]


def test_shards_share_the_jobs():
  todo = jobs(7)
  assert numbered(shards.select(todo, (0, 3), {})) == [1, 4, 7]
  assert numbered(shards.select(todo, (2, 3), {})) == [3, 6]
  assert shards.select(todo, shards.parse("0/1"), {}) == todo and not shards.select(todo, (8, 9), {})


def test_a_job_and_what_it_reads_are_of_one_shard():
  todo, after = jobs(6), {3: {2}, 5: {3, 1}}
  parts = [numbered(shards.select(todo, (index, 3), after)) for index in range(3)]
  assert parts == [[1, 2, 3, 5], [4], [6]]


@pytest.mark.parametrize("text", ["8/8", "1", "-1/2", "0/0", "a/b", "1/2/3", " 1/2", ""])
def test_shards_that_are_none(text):
  with pytest.raises(InputError, match="is no shard; write i/n with i from 0 to n - 1"):
    shards.parse(text)


@pytest.fixture
def folder(tmp_path):
  """Has a wide and a tall picture, and sounds of 1, 1.01 and 60 s."""
  for name, size in (("wide.png", (96, 64)), ("tall.png", (64, 96))):
    Image.new("RGB", size).save(tmp_path / name)
  for name, seconds in (("a.wav", 1.0), ("b.wav", 1.01), ("long.wav", 60.0), ("longer.wav", 70.0)):
    with av.open(tmp_path / name, "w") as container:
      stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
      frame = av.AudioFrame.from_ndarray(np.zeros((1, round(seconds * 8000)), np.int16), "s16", "mono")
      frame.sample_rate = 8000
      container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
  (tmp_path / "text.wav").write_text("no sound")
  return tmp_path


def test_shapes_of_clips(folder):
  def shape(image="wide.png", audio="a.wav", config=CONFIG, **fields):
    return shapes.shape(Request(audio=str(folder / audio), image=str(folder / image), **fields), config)

  assert shape() == shape(seconds=0.9) == ("i2v", 64, 96, 25) and shape(audio="b.wav") == ("i2v", 64, 96, 29)
  assert shape("tall.png") == ("i2v", 96, 64, 25) and shape(seconds=0.5) == ("i2v", 64, 96, 13)
  assert shape(audio="long.wav") == shape(audio="longer.wav")
  fixed = dataclasses.replace(CONFIG, sampling=SamplingConfig(height=32, width=48))
  assert shape(image="absent.png", config=fixed) == ("i2v", 32, 48, 25)
  assert shape(audio="text.wav") is shape(audio="absent.wav") is shape(image="a.wav") is None


def test_a_job_waits_for_lines_that_write_what_it_reads(tmp_path):
  lines = [{"audio": "a.wav", "image": "p.png", "name": "x"}, {"audio": "a.wav", "image": "p.png", "name": "y"},
           {"task": "lipsync", "audio": "out/y.mp4", "video": "out/../out/x.mp4", "name": "z"},
           {"task": "lipsync", "audio": "a.wav", "video": "out/w.mp4", "name": "v"},
           {"audio": "a.wav", "image": "p.png", "name": "w"}, "{"]
  (tmp_path / "jobs.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line)
                                                 for line in lines))
  todo = read_manifest(tmp_path / "jobs.jsonl")
  assert dependencies(todo, tmp_path / "out") == {3: {1, 2}, 5: {4}}


def test_two_thousand_lines_are_looked_at_in_a_second(folder, record_property):
  """Reading and checking them, what waits for what, shapes; most lines name the same few files."""
  (folder / "jobs.jsonl").write_text("\n".join(json.dumps(
      {"audio": ("a.wav", "b.wav", "long.wav")[n % 3], "image": "wide.png", "name": f"n{n}", "face_box": "none"})
      for n in range(2000)))
  begin = time.process_time()
  todo = check_jobs(read_manifest(folder / "jobs.jsonl"), folder / "out", CONFIG)
  after = dependencies(todo, folder / "out")
  found = shapes.of_jobs(todo, CONFIG)
  seconds = time.process_time() - begin
  record_property("seconds_of_2000_lines", round(seconds, 2))
  assert not any(job.fault for job in todo) and not after and len(set(found.values())) == 3
  assert seconds < 5, f"{seconds:.1f} s"
