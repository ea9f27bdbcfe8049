"""TensorBoard's event files."""

import pathlib
import time


class TensorBoard:
  """An event file that goes on after `step`.

  It is written by the caller, not by a `SummaryWriter`: that writes in a thread, which a full disk
  ends with a traceback, and the caller waits for ever on a queue that nobody empties.

  Args:
    folder: of the event files; is made where absent.
    step: numbers of later steps in older files no longer count.

  Raises:
    OSError: nothing can be written there; `flush` and `close` raise it too.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    # Here, because it imports PyTorch where that is installed: 1.4 s, for the process that writes.
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    self._proto, self._scalar = event_pb2, summary.scalar
    folder.mkdir(parents=True, exist_ok=True)
    # Its own name of a file tells seconds apart, of which two starts may share one.
    self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{time.time_ns()}")
    if step:
      start = self._proto.SessionLog(status=self._proto.SessionLog.START)
      self._add(step=step + 1, session_log=start)

  def _add(self, **fields) -> None:
    self._file.write_event(self._proto.Event(wall_time=time.time(), **fields))

  def add_scalar(self, tag: str, value: float, step: int) -> None:
    """Adds a number to what `flush` and `close` write."""
    self._add(step=step, summary=self._scalar(tag, value))

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()
