"""Sound keeps its place against the pictures, whatever the time stamps do."""

from fractions import Fraction

import av
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io.audio_files import read_audio
from emv3_jax.io.sound_timeline import Piece, lay

RATE = 16_000
KINDS = [("mp4", "flac", 1), ("mp4", "aac", 1), ("mkv", "flac", 20), ("mkv", "libopus", 60),
         ("mkv", "aac", 20), ("nut", "mp2", 1)]  # samples that time stamps may be off


def noise(rng, seconds, rate=RATE):
  return (0.3 * rng.standard_normal((round(seconds * rate), 1))).clip(-1, 1).astype(np.float32)


def write_film(path, codec, sound, rate, *, pictures, late, hole_at=None, hole=0.0):
  """Pictures at the times `pictures`, then sound from `late` seconds on, with a hole in its stamps.

  Returns the seconds in `sound` at which the hole is.
  """
  with av.open(str(path), "w") as container:
    film = container.add_stream("mpeg4", rate=25)
    film.width = film.height = 32
    film.codec_context.time_base = Fraction(1, 1000)
    track = container.add_stream(codec, rate=rate, layout="mono")
    packets = []
    for seconds in pictures:
      frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
      frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
      packets += film.encode(frame)
    packets += film.encode(None)
    resampler, size, heard = av.AudioResampler(track.format, "mono", rate), track.frame_size or 1024, []
    for at in range(0, len(sound), size):
      frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[at:at + size].T), format="fltp",
                                         layout="mono")
      frame.sample_rate, frame.pts = rate, at
      heard += [packet for part in resampler.resample(frame) for packet in track.encode(part)]
    heard += track.encode(None)
    split = None
    for packet in heard:
      begins = float(packet.pts * packet.time_base)
      moved = late
      if hole_at is not None and begins >= hole_at:
        split = begins if split is None else split
        moved += hole
      ticks = round(moved / packet.time_base)
      packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
    for packet in sorted(packets + heard, key=lambda packet: packet.dts * packet.time_base):
      container.mux(packet)
  return split


def place_of(block, heard, near, reach):
  """Sample at which `block` is found in `heard`, at most `reach` from `near`."""
  score = [heard[near + shift:near + shift + len(block)] @ block
           for shift in range(-reach, reach + 1)]
  return near + int(np.argmax(score)) - reach


@pytest.mark.parametrize("ending, codec, tolerance", KINDS, ids=lambda value: str(value))
@pytest.mark.parametrize("seed", range(2))
def test_any_offset_and_any_hole(tmp_path, ending, codec, tolerance, seed):
  """Offsets of up to 2 s either way, a hole, pictures at a varying rate; one second of sound."""
  rng = np.random.default_rng([seed, len(codec), len(ending)])
  rate = 48_000 if codec == "libopus" else RATE
  sound = noise(rng, 1.0, rate)
  offset = round(rng.uniform(0.05, 2) if seed else -rng.uniform(0.05, 0.35), 3)  # as MOV has it
  first = max(0.0, -offset) + round(rng.uniform(0, 0.3), 3)
  pictures = first + np.cumsum(rng.uniform(0.02, 0.09, 12))
  first = round(float(pictures[0]), 3)
  hole = round(rng.uniform(0.03, 0.6), 3)
  split = write_film(tmp_path / f"a.{ending}", codec, sound, rate, pictures=pictures,
                     late=first + offset, hole_at=0.6, hole=hole)
  heard, got_rate = read_audio(tmp_path / f"a.{ending}")
  assert got_rate == rate
  length = rate // 16
  for begin in (0.4, split + 0.15):  # blocks before and after the hole, away from its edge
    block = sound[round(begin * rate):][:length, 0]
    place = begin + offset + (hole if begin > split else 0)
    found = place_of(block, np.pad(heard[:, 0], (0, length)), round(place * rate), rate // 100)
    assert abs(found - place * rate) <= tolerance + 1
  silent = heard[max(round((split + offset) * rate) + rate // 50, 0):round(
      (split + offset + hole) * rate) - rate // 50]
  assert not silent.any()
  if offset > 0.07:
    assert not heard[:round((offset - 0.07) * rate)].any()


def pieces(sound, starts, rate=RATE, size=400):
  """`sound` cut into pieces of `size`, the i-th at starts(i * size / rate)."""
  return [Piece(starts(at / rate), sound[at:at + size], rate) for at in range(0, len(sound), size)]


def test_plain_sound_stays_as_it_is(rng):
  sound = noise(rng, 1.0)
  for starts in (lambda t: 5 + t, lambda t: None):
    np.testing.assert_array_equal(lay(pieces(sound, starts), 1 / RATE, None, "a"), sound)


def test_jitter_is_no_hole(rng):
  """Stamps from a recorder's clock: 20 ms off either way, no step that stays."""
  sound = noise(rng, 2.0)
  jitter = iter([0.0, *rng.uniform(-0.02, 0.02, 78), 0.0])
  laid = lay(pieces(sound, lambda t: t + next(jitter)), 1e-3, None, "a")
  assert abs(len(laid) - len(sound)) <= 0.02 * RATE
  np.testing.assert_array_equal(laid[:24_000], sound[:24_000])


def test_a_small_step_that_stays_is_a_hole(rng):
  sound = noise(rng, 1.0)
  laid = lay(pieces(sound, lambda t: t + 0.01 * (t >= 0.5)), 1 / RATE, None, "a")
  want = np.concatenate([sound[:8000], np.zeros((160, 1)), sound[8000:]])
  np.testing.assert_array_equal(laid, want)


@pytest.mark.parametrize("overlap", [0.05, 0.3])
def test_an_overlap_is_cut(rng, overlap):
  sound = noise(rng, 1.0)
  laid = lay(pieces(sound, lambda t: t - overlap * (t >= 0.5)), 1 / RATE, None, "a")
  np.testing.assert_array_equal(laid, np.delete(sound, np.s_[8000:8000 + round(overlap * RATE)], 0))


def test_stamps_that_begin_anew_are_joined(rng):
  sound = noise(rng, 3.0)
  laid = lay(pieces(sound, lambda t: t % 1.5), 1 / RATE, None, "a")
  np.testing.assert_array_equal(laid, sound)


def test_origin(rng):
  sound = noise(rng, 0.5)
  stamped = pieces(sound, lambda t: 1 + t)
  np.testing.assert_array_equal(lay(stamped, 1 / RATE, 1.25, "a"), sound[4000:])
  np.testing.assert_array_equal(lay(stamped, 1 / RATE, 0.5, "a"), np.pad(sound, ((8000, 0), (0, 0))))
  with pytest.raises(InputError, match="ends before its pictures begin"):
    lay(stamped, 1 / RATE, 1.5, "a")


def test_rates_and_channels_may_change(rng):
  """A tone goes on at its pitch; one channel goes to both."""
  tone = lambda rate, begin: 0.3 * np.sin(2 * np.pi * 300 * (begin + np.arange(rate // 2) / rate))
  parts = [Piece(0.0, tone(RATE, 0)[:, None].astype(np.float32), RATE),
           Piece(0.5, np.stack([tone(24_000, 0.5)] * 2, 1).astype(np.float32), 24_000)]
  laid = lay(parts, 1 / RATE, None, "a")
  assert laid.shape == (16_000, 2)
  want = np.r_[tone(RATE, 0), tone(RATE, 0.5)]
  assert np.abs(laid - want[:, None])[np.r_[:7900, 8100:15_900]].max() < 0.01


def test_a_hole_of_hours_is_refused(rng):
  with pytest.raises(InputError, match="hole of 90000 s"):
    lay(pieces(noise(rng, 1.0), lambda t: t + 90_000 * (t > 0.5)), 1 / RATE, None, "a")
