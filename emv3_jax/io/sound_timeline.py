"""Placement of decoded pieces of sound by their time stamps: gaps are filled, overlaps are cut."""

from collections.abc import Iterator, Sequence
import dataclasses

from jaxtyping import Float32
import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.io.resampling import resample

# Time stamps jitter if a recorder takes them from a clock, and containers round them. A deviation counts
# as a step if it is larger than SMALLEST and than TICKS ticks and lasts for STAYS seconds; one larger than
# LARGE counts immediately.
SMALLEST = 1e-3  # seconds
TICKS = 1.5
STAYS = 0.2  # seconds
LARGE = 0.1  # seconds
RESTART = 1.0  # seconds; time stamps that go back further restart, as in joined files
LONGEST_HOLE = 3600.0  # seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
  """A decoded frame of sound.

  Attributes:
    seconds: time stamp of the first sample; None if there is none.
    samples: float32 [n, channels].
    rate: sample rate in Hz.
  """

  seconds: float | None
  samples: Float32[np.ndarray, "n channels"]
  rate: int

  @property
  def length(self) -> float:
    return len(self.samples) / self.rate


def lay(pieces: Sequence[Piece], tick: float, origin: float | None, path
        ) -> Float32[np.ndarray, "n channels"]:
  """Joins pieces to one recording, at the rate of the first piece and with the largest number of channels.

  Args:
    pieces: in the order of decoding, at least one.
    tick: resolution of the container's time stamps in seconds.
    origin: time stamp of sample 0: silence is put before later sound, earlier sound is cut. None takes
      the time stamp of the first sample.
    path: path of the recording, for messages.

  Returns:
    float32 [n, channels].

  Raises:
    InputError: there is a gap of more than an hour, or no sample after `origin`.
  """
  rate, channels = pieces[0].rate, max(piece.samples.shape[1] for piece in pieces)
  begins = _begins(pieces, max(SMALLEST, TICKS * tick), path)
  origin = begins[0] if origin is None else origin
  parts, end = [], 0
  for begin, samples in _runs(pieces, begins, rate, channels):
    at = round((begin - origin) * rate)
    samples = samples[max(end - at, 0):]  # cuts what lies before the origin or overlaps
    at = max(at, end)
    if len(samples):
      parts += [np.zeros((at - end, channels), np.float32)] if at > end else []
      parts.append(samples)
      end = at + len(samples)
  if not end:
    raise InputError(f"Audio {path} ends before its pictures begin; save it again with its sound "
                     "aligned.")
  return np.concatenate(parts)


def _begins(pieces: Sequence[Piece], tolerance: float, path) -> list[float]:
  """Returns the start of each piece in seconds: the end of the previous piece unless the stamps have a step."""
  first = next((piece.seconds for piece in pieces if piece.seconds is not None), 0.0)
  joined = np.concatenate([[0.0], _running_length(pieces)[:-1]])
  # Difference between each time stamp and the position of the piece if all are joined without gaps.
  off = np.array([np.nan if piece.seconds is None else piece.seconds for piece in pieces])
  off = off - first - joined
  if (stamped := np.flatnonzero(~np.isnan(off))).size == 0:
    return list(first + joined)
  stays = np.searchsorted(joined, joined + STAYS, side="right")
  stamps, shift = 0.0, 0.0  # current deviation of the time stamps, and current shift of the pieces
  begins = list(first + joined)
  with_stamp = set(stamped.tolist())
  for i in range(len(pieces)):
    if i in with_stamp and abs(off[i] - stamps) > tolerance:
      step = _step(off[i:stays[i]] - stamps, tolerance)
      if step > LONGEST_HOLE:
        raise InputError(f"Audio {path} has a hole of {step:.0f} s in its time stamps at "
                         f"{joined[i]:.2f} s; save it again.")
      stamps += step
      shift += step if step > -RESTART else 0.0
    begins[i] += shift
  return begins


def _running_length(pieces: Sequence[Piece]) -> np.ndarray:
  """Returns the seconds from the first sample to the end of each piece, from sums of samples."""
  lengths = np.array([len(piece.samples) for piece in pieces], np.float64)
  rates = np.array([piece.rate for piece in pieces])
  ends = np.zeros_like(lengths)
  for rate in set(rates.tolist()):
    ends += np.cumsum(np.where(rates == rate, lengths, 0)) / rate
  return ends


def _step(ahead: np.ndarray, tolerance: float) -> float:
  """Returns the step of the stamps at the first of these pieces in seconds; 0 for jitter."""
  if abs(ahead[0]) > LARGE:
    return float(ahead[0])
  ahead = ahead[~np.isnan(ahead)]
  if (ahead > tolerance).all() or (ahead < -tolerance).all():
    return float(ahead[np.argmin(np.abs(ahead))])
  return 0.0


def _runs(pieces: Sequence[Piece], begins: Sequence[float], rate: int, channels: int
          ) -> Iterator[tuple[float, Float32[np.ndarray, "n channels"]]]:
  """Yields (seconds, float32 [n, channels]) of pieces that follow each other without a step."""
  first = 0
  for i in range(1, len(pieces) + 1):
    if i < len(pieces):
      last, piece = pieces[i - 1], pieces[i]
      joined = abs(begins[i] - begins[i - 1] - last.length) < 0.5 / last.rate
      if joined and piece.rate == last.rate and piece.samples.shape[1] == last.samples.shape[1]:
        continue
    samples = np.concatenate([piece.samples for piece in pieces[first:i]])
    if pieces[first].rate != rate:
      if not np.isfinite(samples).all():
        raise InputError("Its sound changes its rate and holds samples that are NaN or infinite; "
                         "export it again.")
      samples = resample(samples, pieces[first].rate, rate)
    yield begins[first], _widened(samples, channels)
    first = i


def _widened(samples: Float32[np.ndarray, "n few"], channels: int
             ) -> Float32[np.ndarray, "n channels"]:
  """Adds channels: one channel is copied to all; after several channels the others are silent."""
  if samples.shape[1] == channels:
    return samples
  if samples.shape[1] == 1:
    return np.repeat(samples, channels, axis=1)
  return np.pad(samples, ((0, 0), (0, channels - samples.shape[1])))
