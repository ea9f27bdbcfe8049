"""Which records each step takes: by step alone, in order, from data and negatives."""

import dataclasses

import jax
import numpy as np
import pytest

from emv3_jax import sharding
from emv3_jax.data import records
from emv3_jax.data.pipeline import collate
from emv3_jax.errors import InputError
from emv3_jax.sharding import MeshConfig
from emv3_jax.sharding import mesh as mesh_lib
from emv3_jax.training.curriculum import Mixture, Stage, draw_tasks
from emv3_jax.training.input.prefetch import Prefetcher, local_rows, make_batch
from emv3_jax.training.input.sources import Sources
from emv3_jax.training.settings import LossConfig, NDPOConfig
from emv3_jax.variants.preview import PREVIEW
from tests.data import windows
from tests.training import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sources")
  windows.write_dataset(folder / "negatives", shards=((3, 0),))
  return folder


def config_of(folder, sft_weight=0.0, kind="ndpo"):
  stages = (Stage("sft", 3), Stage("cycle", 6, kind=kind, every=3,
                                   negatives=str(folder / "negatives")), Stage("again", 5))
  return dataclasses.replace(runs.config_of(folder, stages, batch=2),
                             ndpo=NDPOConfig(sft_weight=sft_weight))


@pytest.mark.parametrize("sft_weight, data", [
    (0.0, [0, 1, 2, 3, 4, 5, 5, 6, 7, 7]), (0.5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])])
def test_batches_are_taken_one_after_the_other(folder, sft_weight, data):
  sources = Sources(config_of(folder, sft_weight))
  assert [sources.batch_index(step, sources.data) for step in range(10)] == data
  negatives = sources.of_step(5)
  assert negatives.stage == 1 and sources.of_step(4).stage is None
  assert [sources.batch_index(step, negatives) for step in range(10)] == [0] * 6 + [1, 1, 1, 2]


def batch_sharding(**sizes):
  config = MeshConfig(**sizes)
  mesh = sharding.make_mesh(config, jax.devices()[:int(np.prod(config.sizes))])
  return jax.NamedSharding(mesh, mesh_lib.spec("batch"))


def test_batches_on_the_mesh(folder):
  config = config_of(folder, sft_weight=0.5)
  sources = Sources(config)
  target = batch_sharding(data=2, context=2)
  with Prefetcher(config, sources, target, first=4, end=7) as batches:
    learnt, unlearnt = batches.take(4), batches.take(5)
    with pytest.raises(ValueError, match="step 9 was asked for; they end before 7"):
      batches.take(9)
    with pytest.raises(ValueError, match="step 5 was asked for, that of 6"):
      batches.take(5)
    batches._thread.join(10)
    assert batches._queue.empty(), "it reads to the end and no further"
  assert learnt.positives is None and unlearnt.positives is not None
  for batch, step in ((learnt.batch, 4), (unlearnt.batch, 5)):
    np.testing.assert_array_equal(batch.example, sources.record_numbers(step))
    for row, example in enumerate(sources.record_numbers(step)):
      np.testing.assert_array_equal(batch.latents[row], windows.make_record(example).latents)
    assert batch.latents.sharding.is_equivalent_to(target, 5)
  want = sources.data.order.records(sources.batch_index(5, sources.data))
  np.testing.assert_array_equal(unlearnt.positives.example, want)


def test_pairs_are_of_one_record(folder):
  """Record n of the data beside record n of the negatives, in every batch."""
  stage = Stage("pairs", 4, kind="dpo", negatives=str(folder / "pairs"))
  config = runs.config_of(folder, (stage,), batch=2)
  if not (folder / "pairs").exists():
    windows.write_dataset(folder / "pairs")
  sources = Sources(config)
  with Prefetcher(config, sources, batch_sharding(), first=0, end=4) as batches:
    for step in range(4):
      pair = batches.take(step)
      np.testing.assert_array_equal(pair.positives.example, sources.record_numbers(step))
      for row, example in enumerate(sources.record_numbers(step)):
        np.testing.assert_array_equal(pair.positives.latents[row],
                                      windows.make_record(example).latents)


def test_tasks_are_drawn_anew_in_each_step(folder):
  mixture = Mixture(1.0, 1.0, 1.0, 1.0)
  config = runs.config_of(folder, (Stage("all", 6, mixture),), batch=4)
  with Prefetcher(config, Sources(config), batch_sharding(), first=0, end=6) as batches:
    found = [batches.take(step).batch for step in range(6)]
  drawn = lambda step, batch: draw_tasks(config.seed, step, np.asarray(batch.example), mixture)
  for step, batch in enumerate(found):
    np.testing.assert_array_equal(batch.task, drawn(step, batch))
  assert any((drawn(0, batch) != batch.task).any() for batch in found[1:])


def test_a_stage_without_sound(folder):
  stages = (Stage("silent", 1, audio=False), Stage("loud", 1))
  config = runs.config_of(folder, stages, batch=2)
  with Prefetcher(config, Sources(config), batch_sharding(), first=0, end=10) as batches:
    silent, loud = batches.take(0).batch.audio, batches.take(1).batch.audio
  assert not np.any(silent) and np.all(np.any(loud, axis=(1, 2)))


def test_negatives_keep_their_task_and_pairs_have_one(folder, tmp_path):
  """The data are of version 1; of the negatives all but the last name their task."""
  windows.write_dataset(tmp_path / "data", shards=((4, 0),), version=1)
  windows.write_dataset(tmp_path / "negatives", shards=((4, 0),),
                        task_of=["t2v", "lipsync", "flf2v", ""].__getitem__)
  pairs = Stage("pairs", 8, Mixture(i2v=1.0), kind="dpo", negatives=str(tmp_path / "negatives"))
  config = dataclasses.replace(runs.config_of(folder, (pairs,), batch=4), data=str(tmp_path / "data"))
  wanted = np.array([0, 3, 2, 1])
  with Prefetcher(config, Sources(config), batch_sharding(), first=0, end=2) as batches:
    made = batches.take(0)
  for batch in (made.batch, made.positives):
    np.testing.assert_array_equal(batch.task, wanted[np.asarray(batch.example)])
  np.testing.assert_array_equal(made.batch.example, made.positives.example)
  other = collate([windows.make_record(1, task="i2v")], np.arange(1), 8, PREVIEW)
  with pytest.raises(InputError, match="record 0 .* for the tasks i2v and lipsync; a pair needs one"):
    make_batch(0, 0, pairs, collate([windows.make_record(1, task="lipsync")], np.arange(1), 8, PREVIEW), other,
               face_mask="moving")


def test_rows_of_a_process_need_not_lie_together():
  devices = np.array(jax.devices()[:4])[[0, 2, 1, 3]].reshape(4, 1, 1, 1)
  mesh = jax.sharding.Mesh(devices, mesh_lib.AXES)
  target = jax.NamedSharding(mesh, mesh_lib.spec("batch"))
  assert local_rows(target, 8) == list(range(8))


def test_damaged_records_reach_the_loop(folder, tmp_path):
  config = runs.config_of(tmp_path, batch=2)
  sources = Sources(config)
  shard = next((tmp_path / "data" / "shards").iterdir())
  data = bytearray(shard.read_bytes())
  data[len(data) // 4:] = bytes(len(data) - len(data) // 4)
  with open(shard, "r+b") as file:
    file.write(data)
  with (Prefetcher(config, sources, batch_sharding(), first=0, end=10) as batches,
        pytest.raises(InputError)):
    for step in range(8):
      batches.take(step)


def test_what_cannot_be_taken_from(folder, tmp_path):
  config = config_of(folder)
  with pytest.raises(InputError, match="names no dataset"):
    Sources(dataclasses.replace(config, data=""))
  with pytest.raises(InputError, match="names no negatives"):
    Sources(dataclasses.replace(config, stages=(Stage("n", 1, kind="ndpo"),)))
  with pytest.raises(InputError, match="pairs record n"):
    Sources(config_of(folder, kind="dpo"))
  network = dataclasses.replace(config.model.transformer, audio_dim=5)
  model = dataclasses.replace(config.model, transformer=network)
  with pytest.raises(InputError, match="audio_dim: 4 != 5"):
    Sources(dataclasses.replace(config, model=model))


def test_datasets_are_told_apart_by_their_stage(folder):
  """Whatever stages are called, and wherever folders lie; negatives that are the data are none."""
  inside = folder / "negatives" / "inside"
  if not inside.exists():
    windows.write_dataset(inside, shards=((2, 0),))
  stage = lambda negatives: Stage("data", 2, kind="ndpo", negatives=str(negatives))
  stages = (stage(folder / "negatives"), stage(inside), stage(folder / "negatives"))
  config = runs.config_of(folder, stages, batch=2)
  sources = Sources(config)
  told = sources.digests()
  assert told["negatives"].keys() == {"0", "1", "2"} and "data" not in told
  assert told["negatives"]["0"] == told["negatives"]["2"] != told["negatives"]["1"]
  assert [len(sources.of_step(step).dataset) for step in range(6)] == [3, 3, 2, 2, 3, 3]
  assert [sources.batch_index(step, sources.of_step(step)) for step in range(6)] == [0, 1] * 3
  same = dataclasses.replace(config, stages=(stage(folder / "negatives" / ".." / "data"),))
  with pytest.raises(InputError, match=r"stages.0 \('data'\) takes its negatives from .* is the data"):
    Sources(same)


def test_mixture_decides_tasks(folder):
  config = runs.config_of(folder, (Stage("lipsync", 1, Mixture(lipsync=1.0)),), batch=4)
  with Prefetcher(config, Sources(config), batch_sharding(fsdp=4), first=0, end=10) as batches:
    assert np.asarray(batches.take(0).batch.task).tolist() == [3] * 4


def test_face_masks_that_move_are_not_learnt_as_ones_that_stay(tmp_path, caplog):
  """Old records among moving ones are a warning."""
  for name, version in (("moving", records.MOVING), ("still", records.STILL)):
    windows.write_dataset(tmp_path / name, shards=((4, 0),), version=version)
  config_of = lambda name, face_mask: dataclasses.replace(
      runs.config_of(tmp_path), data=str(tmp_path / name), loss=LossConfig(face_mask=face_mask))
  with pytest.raises(InputError, match="moving was prepared with face masks that move; loss.face_mask is released"):
    Sources(config_of("moving", "released"))
  Sources(config_of("moving", "moving"))
  Sources(config_of("still", "released"))
  assert not caplog.messages
  Sources(config_of("still", "moving"))
  assert "still was prepared with one face box for each window" in caplog.text
