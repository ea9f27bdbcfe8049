"""Batches: complete, disjoint, the same for any number of processes, and exact after a restart."""

import dataclasses
import itertools
import json

import chex
import numpy as np
from orbax.checkpoint import v1 as ocp
import pytest

from emv3_jax.data import index as index_lib
from emv3_jax.data.order import Order
from emv3_jax.data.pipeline import Dataset
from emv3_jax.errors import InputError
from tests.data import windows


def take(iterator, count: int):
  return list(itertools.islice(iterator, count))


def examples(batches) -> np.ndarray:
  return np.stack([batch["example"] for batch in batches])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
  """20 records of one size and 10 of another, in three shards."""
  folder = tmp_path_factory.mktemp("data") / "set"
  return Dataset(windows.write_dataset(folder, shards=((6, 4), (14, 0), (0, 6))), windows.CONFIG)


def test_records_are_found_by_their_global_number(dataset):
  assert len(dataset) == 30
  for number in (0, 9, 10, 29):
    assert dataset[number].index == number


def test_an_epoch_is_complete_and_each_batch_of_one_bucket(dataset):
  order = dataset.index.bucket_numbers()
  for epoch in range(3):
    batches = dataset.batches(5, seed=1)
    batches.set_state(dataset.state_at(6 * epoch))
    found = examples(take(batches, 6))
    assert sorted(found.ravel()) == list(range(30))
    assert all(len(set(order[row])) == 1 for row in found)


def test_epochs_are_shuffled_anew_and_by_the_seed(dataset):
  runs = [examples(take(dataset.batches(5, seed=seed), 12)) for seed in (1, 1, 2)]
  assert np.array_equal(runs[0], runs[1])
  assert not np.array_equal(runs[0], runs[2])
  assert not np.array_equal(runs[0][:6], runs[0][6:])
  in_order = examples(take(dataset.batches(5, seed=None), 6))
  for rows in in_order:
    assert np.all(np.diff(rows.astype(int)) > 0)


def test_nothing_is_dropped_where_batches_do_not_divide(dataset):
  """20 and 10 records in batches of 4: after 15 batches (two epochs) each was seen twice."""
  found = examples(take(dataset.batches(4, seed=3), 15)).ravel()
  assert np.array_equal(np.bincount(found, minlength=30), np.full(30, 2))


def test_sizes_take_turns():
  order = Order(np.repeat([0, 1], [20, 10]), 1, seed=0)
  sizes = [int(order.records(step)[0] >= 20) for step in range(60)]
  for begin in range(0, 60, 3):
    assert sum(sizes[begin:begin + 3]) == 1


def test_sizes_have_orders_of_their_own():
  order = Order(np.repeat([0, 1], [30, 30]), 1, seed=0)
  found = np.concatenate([order.records(step) for step in range(60)])
  assert (found[found < 30].tolist()) != (found[found >= 30] - 30).tolist()


@pytest.mark.parametrize("counts", [(1,), (7, 3), (1, 100), (5, 5, 5), (0, 4, 0, 9), (13, 2, 31)])
def test_every_step_has_its_turn(counts):
  order = Order(np.repeat(np.arange(len(counts)), counts), 2, seed=None)
  turns = [order._batch_of_step(step) for step in range(200)]
  for place in set(place for place, _ in turns):
    assert [turn for where, turn in turns if where == place] == list(
        range(sum(where == place for where, _ in turns)))


def test_processes_share_a_global_batch(dataset):
  whole = examples(take(dataset.batches(4, seed=5, process_index=0, process_count=1), 20))
  for count in (2, 4):
    parts = [examples(take(dataset.batches(4, seed=5, process_index=part, process_count=count), 20))
             for part in range(count)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_threads_change_nothing(dataset):
  one = take(dataset.batches(5, seed=1, threads=1, prefetch=1), 9)
  many = take(dataset.batches(5, seed=1, threads=6, prefetch=9), 9)
  for left, right in zip(one, many, strict=True):
    chex.assert_trees_all_equal(left, right)


def test_a_restored_iterator_goes_on_exactly(dataset, tmp_path):
  wanted = take(dataset.batches(4, seed=2), 12)
  batches = dataset.batches(4, seed=2)
  take(batches, 7)
  assert batches.get_state() == dataset.state_at(7)
  ocp.save_checkpointables(tmp_path / "state", {"data": batches})
  take(batches, 2)
  restored = dataset.batches(4, seed=2)
  ocp.load_checkpointables(tmp_path / "state", {"data": restored})
  for got, want in zip(take(restored, 5), wanted[7:], strict=True):
    chex.assert_trees_all_equal(got, want)


def test_what_a_batch_holds(dataset):
  batch = next(dataset.batches(4, seed=None))
  f, h8, w8 = 2, 4, 6
  shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
  assert shapes == {
      "latents": ((4, f, h8, w8, 16), "float32"), "masked_latents": ((4, 3, f, h8, w8, 16), "float32"),
      "lipsync_mask": ((4, f, h8, w8), "uint8"), "task_mask": ((4, f, h8, w8, 4), "uint8"),
      "mouth_mask": ((4, f, h8, w8), "uint8"),
      "face_mask": ((4, 2, 3), "uint8"), "face_box": ((4, 5, 4), "uint16"), "text": ((4, 8, 6), "float32"),
      "image": ((4, 2, 3, 5), "float32"), "audio": ((4, 10, 4), "float32"),
      "task": ((4,), "int32"), "example": ((4,), "uint32")}
  record = dataset[batch["example"][2]]
  np.testing.assert_array_equal(batch["latents"][2], record.latents)
  np.testing.assert_array_equal(batch["text"][2, :len(record.text)], record.text)
  assert not batch["text"][2, len(record.text):].any()
  np.testing.assert_array_equal(dataset.empty_text, np.ones((1, 6)))


def test_finish_sees_the_number_of_the_batch(dataset):
  batches = dataset.batches(4, seed=1, transform=lambda step, batch: {"step": step, **batch})
  batches.set_state(dataset.state_at(3))
  assert [batch["step"] for batch in take(batches, 3)] == [3, 4, 5]


def test_flash_batches(tmp_path):
  folder = windows.write_dataset(tmp_path / "set", config=windows.FLASH)
  assert next(Dataset(folder, windows.FLASH).batches(2, seed=0))["audio"].shape == (2, 5, 5, 2, 4)


def test_batches_and_processes_must_divide(dataset):
  with pytest.raises(InputError, match="batch of 5 does not divide by 2 processes"):
    dataset.batches(5, seed=0, process_index=0, process_count=2)


@pytest.fixture
def broken(tmp_path):
  return windows.write_dataset(tmp_path / "set")


def change_index(folder, **fields):
  path = folder / index_lib.INDEX
  path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_missing_shard_is_named(broken):
  (broken / "shards/00001.array_record").unlink()
  with pytest.raises(InputError, match="00001.array_record is missing"):
    Dataset(broken)


def test_a_cut_shard_is_named(broken):
  path = broken / "shards/00000.array_record"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(InputError, match="00000.array_record has .* bytes, the index says"):
    Dataset(broken)


def test_another_schema_or_version(broken):
  change_index(broken, version=4)
  with pytest.raises(InputError, match="schema emv3_jax.window version 4; .* version 1, 2, 3"):
    Dataset(broken)


def test_a_dataset_of_version_1(dataset, tmp_path):
  old = Dataset(windows.write_dataset(tmp_path / "set", shards=((6, 4), (14, 0), (0, 6)), version=1))
  assert (old.index.version, old.index.made_by, dataset.index.version) == (1, "", 2)
  chex.assert_trees_all_equal(*(next(of.batches(5, seed=1)) for of in (old, dataset)))


def test_records_for_one_task_and_for_all_in_a_batch(tmp_path):
  folder = windows.write_dataset(tmp_path / "set", shards=((2, 0),), task_of=["", "lipsync"].__getitem__)
  batch = next(Dataset(folder).batches(2, seed=None))
  both, alone = windows.make_record(0), windows.make_record(1, task="lipsync")
  assert batch["task"].tolist() == [-1, 3]
  np.testing.assert_array_equal(batch["masked_latents"][0], both.masked_latents)
  for place in range(3):
    np.testing.assert_array_equal(batch["masked_latents"][1, place], alone.masked_latents[0])
  np.testing.assert_array_equal(batch["image"][1], alone.image[[0, 0]])
  np.testing.assert_array_equal(batch["task_mask"][1], alone.task_mask)
  np.testing.assert_array_equal(batch["lipsync_mask"][0], both.lipsync_mask)
  assert not batch["task_mask"][0].any() and not batch["lipsync_mask"][1].any()


def test_no_dataset(tmp_path):
  with pytest.raises(InputError, match="not a dataset: it has no index.json"):
    Dataset(tmp_path)


def test_an_index_with_unknown_fields(broken):
  change_index(broken, colour="red")
  with pytest.raises(InputError, match="colour"):
    Dataset(broken)


def test_counts_that_do_not_agree(broken):
  change_index(broken, records=8)
  with pytest.raises(InputError, match="counts 8 records, its shards 7"):
    Dataset(broken)


def test_another_model(broken):
  other = dataclasses.replace(windows.CONFIG, text_dim=7, variant="flash")
  with pytest.raises(InputError, match="text_dim: 6 != 7.*variant: 'preview' != 'flash'"):
    Dataset(broken, other)


def test_a_shard_of_no_records(broken):
  path = broken / "shards/00000.array_record"
  path.write_bytes(bytes(path.stat().st_size))
  with pytest.raises(InputError, match="shard is damaged"):
    Dataset(broken)
