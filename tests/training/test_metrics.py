"""Lines of metrics: means by task, by band of sigma, by kind of step."""

import json
import os
import struct

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from emv3_jax.errors import InputError
from emv3_jax.training.monitor import metrics
from emv3_jax.training.monitor.metrics import PendingMetrics, StepMetrics
from emv3_jax.training.monitor.tensorboard import TensorBoard


def row(step, kind="sft", **values):
  return StepMetrics(step, kind, {"loss": 1.0, "grad_norm": 1.0, **values})


def test_means_by_task_and_band():
  told = metrics.summarize([
      row(1, loss=2.0, learning_rate=0.1, error=[1.0, 3.0], task=[0, 1], sigma=[0.1, 0.9]),
      row(2, loss=4.0, learning_rate=0.2, error=[3.0, 5.0], task=[1, 3], sigma=[0.2, 1.0])])
  assert told == {
      "loss": 3.0, "grad_norm": 1.0, "learning_rate": 0.2, "loss/t2v": 1.0, "loss/i2v": 3.0,
      "loss/lipsync": 5.0, "loss/sigma_0.0-0.2": 1.0, "loss/sigma_0.2-0.4": 3.0,
      "loss/sigma_0.8-1.0": 4.0}


def test_kinds_are_told_apart():
  told = metrics.summarize([
      row(1, loss=2.0, error=[2.0], task=[1], sigma=[0.5]),
      row(2, "ndpo", loss=0.5, d=[3.0], d_ref=[1.0], task=[1], sigma=[0.5], positive_error=[4.0],
          positive_task=[3], positive_sigma=[0.7])])
  assert told["loss"] == 1.25 and told["loss/sft"] == 2.0 and told["loss/ndpo"] == 0.5
  assert told["d"] == 3.0 and told["d_ref"] == 1.0 and told["d/i2v"] == 3.0
  assert told["loss/i2v"] == 2.0 and told["positive_loss/lipsync"] == 4.0
  assert told["positive_error"] == 4.0 and "error" not in told


@pytest.mark.parametrize("kind, values, fault", [
    ("sft", {}, None), ("sft", {"loss": float("nan")}, "loss is nan"),
    ("sft", {"grad_norm": float("inf")}, "grad_norm"),
    ("sft", {"loss": 11.0, "error": [9.0, 13.0]}, "loss is 11, above train.max_loss 10"),
    ("ndpo", {"loss": 250.0, "d": [0.5, 0.7], "positive_error": [0.9, 1.1]}, None),
    ("ndpo", {"loss": 0.1, "d": [9.0, 13.0], "positive_error": [1.0]}, "d is 11, above"),
    ("ndpo", {"loss": 0.1, "d": [1.0], "positive_error": [12.0]}, "positive_error is 12, above"),
    ("dpo", {"loss": 20.0, "d": [1.0], "d_positive": [1.0]}, None),
    ("dpo", {"loss": 0.1, "d": [1.0], "d_positive": [12.0]}, "d_positive is 12, above"),
    ("ndpo", {"loss": float("inf"), "d": [1.0]}, "loss is inf")])
def test_faults(kind, values, fault):
  """The error is watched, not the loss of a preference nor lambda times an error."""
  found = row(1, kind, **values).fault(max_loss=10.0)
  assert found is None if fault is None else fault in found


def test_pending_reads_up_to_a_step():
  pending = PendingMetrics()
  for step in (1, 2, 3):
    pending.add(step, "sft", {"loss": jnp.float32(step), "error": jnp.arange(2.0)})
  pending.wait(1)
  assert [found.step for found in pending.read(2)] == [1, 2]
  last, = pending.read(3)
  assert last == StepMetrics(3, "sft", {"loss": 3.0, "error": [0.0, 1.0]})
  assert StepMetrics(**json.loads(json.dumps(vars(last)))) == last


def test_event_files_are_tensorboard_s(tmp_path):
  board = TensorBoard(tmp_path / "board", 4)
  board.add_scalar("loss/i2v", 0.5, 6)
  board.close()
  file, = (tmp_path / "board").iterdir()
  data, events = file.read_bytes(), []
  while data:  # length, its checksum, an event, its checksum
    length, = struct.unpack_from("Q", data)
    events.append(event_pb2.Event.FromString(data[12:12 + length]))
    data = data[16 + length:]
  version, start, scalar = events
  assert version.file_version == "brain.Event:2"
  assert start.step == 5 and start.session_log.status == event_pb2.SessionLog.START
  assert scalar.step == 6 and scalar.summary.value[0].tag == "loss/i2v"
  assert scalar.summary.value[0].simple_value == 0.5


def test_two_starts_in_a_second_have_a_file_each(tmp_path):
  for step in (0, 4):
    TensorBoard(tmp_path, step).close()
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("full", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_told(tmp_path, full):
  with (pytest.raises(InputError, match=f"{full} .No space left on device.*\n.*same command again"),
        metrics.Writer(tmp_path, 0) as writer):
    if full == "tensorboard":
      with open("/dev/full", "wb") as nowhere:
        os.dup2(nowhere.fileno(), writer._tensorboard._file._py_recordio_writer._writer.fileno())
    else:
      (tmp_path / full).symlink_to("/dev/full")
    writer.write({"step": 1, "loss": 0.5})


def test_lines_after_a_checkpoint_are_forgotten(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 3, "loss": 1}\n{"step": 6, "loss": 2}\n{"step": 9, "lo')
  metrics.drop_after(path, 5)
  assert path.read_text() == '{"step": 3, "loss": 1}\n'
  with metrics.Writer(tmp_path, 5) as writer:
    writer.write({"step": 6, "loss": 0.5})
  assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [3, 6]
  assert list((tmp_path / "tensorboard").iterdir())
