"""Comparison of the networks on both sides: their inputs, errors and tolerances."""

from collections.abc import Callable, Sequence
import dataclasses
import time

from absl import logging
import numpy as np

from emv3_jax.sampling import profile as profile_lib
from emv3_jax.verify import inputs as inputs_lib
from emv3_jax.verify.inputs import TAUS, Conditions, Inputs

PARTS = ("text_encoder", "image_encoder", "audio_encoder", "vae", "transformer")
RUN = "run"  # the sampling run, of the transformer and the VAE
NETWORK, SAMPLING = 1e-5, 1e-4  # tolerances


@dataclasses.dataclass(frozen=True)
class Row:
  """One comparison.

  Attributes:
    module: name of the network or run.
    error: max |ours - theirs| / max |theirs|; infinite if shapes differ or a value is not finite.
    tolerance: largest error with which the comparison holds.
    remark: why the comparison fails independently of the error, or "".
  """

  module: str
  error: float
  tolerance: float
  remark: str = ""

  @property
  def holds(self) -> bool:
    return not self.remark and self.error <= self.tolerance


def compare(module: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> Row:
  """Compares two arrays. It fails if theirs is constant, since such a comparison shows nothing."""
  if ours.shape != theirs.shape:
    return Row(module, float("inf"), tolerance, f"shapes {ours.shape} and {theirs.shape}")
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
    return Row(module, float("inf"), tolerance, "not finite")
  error = float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
  varies = theirs.min() < theirs.max()
  return Row(module, error, tolerance, "" if varies else "theirs has one value everywhere")


class Comparison:
  """Runs the selected parts; each adds to `rows` and `profile`.

  Args:
    ours, theirs: the two sides, `ours.Ours` and `theirs.Theirs`.
    parts: some of `PARTS` and `RUN`.
    inputs, conditions: inputs of both sides; states of the encoders that run replace random ones.
    has_audio: whether the transformer of the other side has the audio expert.
  """

  def __init__(self, ours, theirs, parts: Sequence[str], inputs: Inputs, conditions: Conditions,
               has_audio: bool):
    self._sides, self._parts = {"theirs": theirs, "ours": ours}, parts
    self._inputs, self._conditions, self._has_audio = inputs, conditions, has_audio
    self.rows: list[Row] = []
    self.profile = profile_lib.Profile()

  def run(self) -> list[Row]:
    steps = {"text_encoder": self._text, "image_encoder": self._image,
             "audio_encoder": self._audio, "vae": self._vae}
    for name, step in steps.items():
      if name in self._parts:
        step()
    if "transformer" in self._parts or RUN in self._parts:
      self._transformer()
    return self.rows

  def _both(self, part: str, call: Callable) -> tuple:
    """Returns the results of `call` for theirs and for ours, with one side in memory at a time."""
    found = {}
    for name, side in self._sides.items():
      start = time.perf_counter()
      with self.profile.measure(f"{part}, {name}"):
        found[name] = call(side)
      logging.info("%s, %s: %.0f s", part, name, time.perf_counter() - start)
    return found["theirs"], found["ours"]

  def _add(self, module: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    self.rows.append(compare(module, ours, theirs, tolerance))

  def _text(self):
    theirs, ours = self._both("text_encoder", lambda side: side.text(self._inputs))
    mask = self._inputs.mask
    self._add("umT5", ours[mask], theirs[mask], NETWORK)
    tokens = self._conditions.prompt.shape[1]
    self._conditions.prompt, self._conditions.negative = (
        inputs_lib.padded(states, row, tokens)
        for states, row in zip(theirs, mask, strict=True))

  def _image(self):
    theirs, ours = self._both("image_encoder", lambda side: side.image(self._inputs))
    self._add("CLIP", ours, theirs, NETWORK)
    self._conditions.image = theirs

  def _audio(self):
    theirs, ours = self._both("audio_encoder", lambda side: side.audio(self._inputs))
    self._add("wav2vec2", ours, theirs, NETWORK)
    self._conditions.audio = inputs_lib.audio_condition(self._inputs, theirs)

  def _vae(self):
    theirs, ours = self._both("vae encode", lambda side: side.encode(self._inputs.videos))
    self._add("VAE encode", ours, theirs, NETWORK)
    self._conditions.condition = inputs_lib.make_condition(self._inputs, theirs[1:])
    self._decoded("VAE decode", self._inputs.latents, self._inputs.latents, NETWORK)

  def _transformer(self):
    sample = RUN in self._parts
    taus = TAUS if "transformer" in self._parts else ()
    theirs, ours = self._both("transformer", lambda side: side.transformer(
        taus, self._inputs, self._conditions, sample))
    silent = "" if self._has_audio else ", audio silenced"
    if taus:
      self._add(f"transformer{silent}", ours[0], theirs[0], NETWORK)
    if sample:
      self._add(f"sampling run{silent}: latents", ours[1], theirs[1], SAMPLING)
      self._decoded(f"sampling run{silent}: video", ours[1], theirs[1], SAMPLING)

  def _decoded(self, module: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    """Compares the videos that both sides decode from their latents, clamped, as theirs clamps them."""
    latents = {id(self._sides["ours"]): ours, id(self._sides["theirs"]): theirs}
    decoded = self._both("vae decode", lambda side: side.decode(latents[id(side)]))
    theirs, ours = (np.clip(video, -1, 1) for video in decoded)
    self._add(module, ours, theirs, tolerance)
