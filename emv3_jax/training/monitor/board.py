"""TensorBoard's event files."""

import pathlib
import socket
import sys
import time


class Board:
  """An event file that goes on after `step`.

  tensorboardX's `SummaryWriter` writes in a thread, which a full disk ends: its traceback is all
  that is told, and the caller waits for ever on a queue that nobody empties. Here the caller writes.

  Args:
    folder: of the event files; is made where absent.
    step: numbers of later steps in older files no longer count.

  Raises:
    OSError: nothing can be written there; `flush` and `close` raise it too.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    tensorboardx = _imported()
    self._proto, self._scalar = tensorboardx.proto.event_pb2, tensorboardx.summary.scalar
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
    self._file = tensorboardx.RecordWriter(str(folder / name))
    self._add(file_version="brain.Event:2")
    if step:
      start = self._proto.SessionLog(status=self._proto.SessionLog.START)
      self._add(step=step + 1, session_log=start)

  def _add(self, **fields) -> None:
    event = self._proto.Event(wall_time=time.time(), **fields)
    self._file.write(event.SerializeToString())

  def add_scalar(self, tag: str, value: float, step: int) -> None:
    self._add(step=step, summary=self._scalar(tag, value))

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _imported():
  """tensorboardX.

  Where PyTorch is installed it imports it, to take its tensors too: three seconds and a second
  runtime in the process. It is kept from finding it.
  """
  absent = "torch" not in sys.modules
  if absent:
    sys.modules["torch"] = None
  try:
    import tensorboardX
    import tensorboardX.proto.event_pb2
    import tensorboardX.summary
  finally:
    if absent:
      del sys.modules["torch"]
  return tensorboardX
