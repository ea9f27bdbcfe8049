"""Records: the round trip, and what is refused."""

import dataclasses
import pathlib
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from safetensors.numpy import load, save

from emv3_jax.data import records
from emv3_jax.errors import InputError
from emv3_jax.variants.flash import FLASH
from emv3_jax.variants.preview import PREVIEW
from tests.data.windows import as_version_1, make_record


@pytest.mark.parametrize("dtype, tolerance", [("float32", 0), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_round_trip(dtype, tolerance):
  record = make_record(7)
  got = records.decode(records.encode(record, dtype, PREVIEW))
  for field in dataclasses.fields(records.Record):
    value, wanted = getattr(got, field.name), getattr(record, field.name)
    if isinstance(wanted, np.ndarray):
      assert value.dtype == wanted.dtype
      np.testing.assert_allclose(value, wanted, atol=tolerance, err_msg=field.name)
    else:
      assert value == wanted


def test_a_record_for_one_task():
  record = make_record(5, task="flf2v")
  got = records.decode(records.encode(record, "float32", PREVIEW))
  assert got.task == "flf2v" and got.lipsync_mask is None
  assert got.masked_latents.shape == (1, 2, 4, 6, 16) and got.image.shape == (1, 3, 5)
  np.testing.assert_array_equal(got.task_mask, record.task_mask)


def test_version_1_is_still_read():
  record = make_record(3)
  got = records.decode(as_version_1(records.encode(record, "float32", PREVIEW)))
  assert got.task == "" and got.task_mask is None and got.id == record.id
  for name in records.array_names("", records.STILL):
    np.testing.assert_array_equal(getattr(got, name), getattr(record, name))


def test_an_unknown_task_is_named():
  data = records.encode(make_record(task="i2v"), "float32", PREVIEW)
  metadata = {"schema": records.SCHEMA, "version": "2", "task": "v2v"}
  with pytest.raises(InputError, match="record is for task 'v2v'; known: t2v, i2v"):
    records.decode(save(load(data), metadata))


def test_any_safetensors_reader_gets_the_arrays():
  record = make_record()
  np.testing.assert_array_equal(load(records.encode(record, "float32", PREVIEW))["latents"], record.latents)


def test_flash_features_are_stored_with_their_context():
  record = make_record(2, variant="flash")
  got = records.decode(records.encode(record, "float32", FLASH))
  np.testing.assert_array_equal(got.audio, record.audio)
  assert len(record.audio) == 5 + 4
  with pytest.raises(ValueError, match="audio is .* for 5 frames of preview; expected 10 features"):
    records.encode(record, "float32", PREVIEW)
  with pytest.raises(InputError, match="damaged: .* 5 frames of preview; expected 10 features"):
    records.decode(records.encode(record, "float32", FLASH), variant=PREVIEW)


def test_a_value_too_large_for_float16_is_not_stored():
  record = make_record()
  record.text[0, 0] = 1e5
  with pytest.raises(InputError, match="text has values .* not finite in float16.*bfloat16"):
    records.encode(record, "float16", PREVIEW)
  assert records.decode(records.encode(record, "bfloat16", PREVIEW)).text[0, 0] > 9e4


@pytest.mark.parametrize("change", [
    {"audio": np.zeros((9, 4), np.float32)}, {"lipsync_mask": None}, {"mouth_mask": np.zeros((2, 4, 5), np.uint8)},
    {"face_mask": np.zeros((4, 6), np.uint8)}])
def test_shapes_that_do_not_belong_together(change):
  (name, value), record = *change.items(), make_record()
  object.__setattr__(record, name, value)  # past `Record(...)`, whose types tests check
  with pytest.raises(ValueError, match=name):
    records.encode(record, "float32", PREVIEW)


def test_another_schema_is_named():
  data = records.encode(make_record(), "float32", PREVIEW)
  other = save(load(data), {"schema": "emv3_jax.window", "version": "4"})
  with pytest.raises(InputError,
                     match="record 3 has schema emv3_jax.window version 4; .* version 1, 2, 3"):
    records.decode(other, "record 3")
  with pytest.raises(InputError, match="schema None"):
    records.decode(save(load(data)))


def test_missing_and_extra_arrays():
  data = records.encode(make_record(), "float32", PREVIEW)
  arrays = load(data)
  del arrays["text"]
  metadata = {"schema": records.SCHEMA, "version": str(records.STILL)}
  with pytest.raises(InputError, match="expected audio.*text"):
    records.decode(save(arrays, metadata))


@pytest.mark.parametrize("spoil", [
    lambda data: data[:4], lambda data: b"", lambda data: data[:200], lambda data: data[:-1],
    lambda data: b"\xff" * 64])
def test_damaged_bytes(spoil):
  with pytest.raises(InputError, match="damaged"):
    records.decode(spoil(records.encode(make_record(), "float32", PREVIEW)))


def test_a_shard_whose_records_fail_leaves_nothing(tmp_path):
  def failing():
    yield b"one"
    raise InputError("no more")

  with pytest.raises(InputError, match="no more"):
    records.write_shard(tmp_path / "a.array_record", failing())
  assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path):
  """A file size limit stands for the disk: writes fail alike."""
  code = textwrap.dedent("""
    import pathlib, resource, sys
    from emv3_jax.data import records
    from emv3_jax.errors import InputError
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
      records.write_shard(sys.argv[1], (bytes(range(256)) * 400 + bytes([n]) for n in range(90)))
    except InputError as error:
      print(error)
  """)
  assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
  path = tmp_path / "a.array_record"
  ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
  assert f"Cannot write {path}" in ran.stdout and "File too large" in ran.stdout, ran.stderr
  assert not list(tmp_path.iterdir())


def moving_record(number: int = 0, **changes) -> records.Record:
  """A record whose face moves two tokens to the right."""
  boxes = np.array([[0, 1, x, x + 1] for x in (0, 0, 1, 1, 2)], np.uint16)
  return dataclasses.replace(make_record(number), **{"face_mask": None, "face_box": boxes, **changes})


def test_the_face_s_boxes_by_frame_make_version_3():
  record = moving_record(3)
  data = records.encode(record, "float16", PREVIEW)
  assert b'"version":"3"' in data and "face_mask" not in load(data)
  got = records.decode(data)
  assert got.face_mask is None and got.face_box.dtype == np.uint16
  np.testing.assert_array_equal(got.face_box, record.face_box)


@pytest.mark.parametrize("boxes", [[0, 1, 2, 2], [0, 3, 0, 1], [0, 1, 0, 4]])
def test_boxes_that_are_empty_or_outside_are_damage(boxes):
  record = moving_record(face_box=np.array([boxes] * 5, np.uint16))
  with pytest.raises(ValueError, match="face_box has boxes that are empty or not within 2 rows and 3 columns"):
    records.encode(record, "float16", PREVIEW)


def test_a_record_that_version_2_wrote():
  """Written by the release before version 3: its bytes are made again."""
  data = (pathlib.Path(__file__).parent / "version_2.record").read_bytes()
  record = records.decode(data, variant=PREVIEW)
  assert record.id == "train_00000" and record.face_box is None
  np.testing.assert_array_equal(record.face_mask, [[0] * 4, [1, 1, 1, 0], [1, 1, 1, 0], [0] * 4])
  assert records.encode(record, "float16", PREVIEW) == data
