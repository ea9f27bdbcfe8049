"""What is measured, what holds, and what the table and the JSON say of it."""

import json
import types

import numpy as np
import pytest

from emv3_jax.components.config import ModelConfig
from emv3_jax.errors import InputError
from emv3_jax.verify import report
from emv3_jax.verify.comparison import PARTS, RUN, Comparison, Row, compare
from emv3_jax.verify.inputs import Size, make_conditions, make_inputs
from tests.verify.small_model import CONFIGS

SIZE = Size(frames=5, height=32, width=48)


def configs(variant: str) -> ModelConfig:
  return ModelConfig(transformer=CONFIGS[variant], **{
      name: CONFIGS[name] for name in PARTS if name != "transformer"})


class Side:
  """Stands for a network: every result follows from the inputs; `off` is an error in one of them."""

  def __init__(self, variant: str, off: str = ""):
    self.config, self.off, self.given = configs(variant), off, {}

  def _result(self, name, *shape):
    values = np.random.default_rng(len(shape)).standard_normal(shape, np.float32)
    return values + (0.01 if name == self.off else 0)

  def text(self, inputs):
    return self._result("text", *inputs.ids.shape, 64)

  def image(self, inputs):
    return self._result("image", 1, 257, 48)

  def audio(self, inputs):
    frames = inputs.audio_options.get("frames")
    return self._result("audio", *((1, 10, 48) if frames is None else (1, frames, 2, 48)))

  def encode(self, videos):
    assert videos.shape == (2, 5, 32, 48, 3) and np.abs(videos).max() <= 1
    return self._result("encode", 2, 2, 4, 6, 16)

  def decode(self, latents):
    return np.repeat(latents[..., :3], 8, axis=3).repeat(8, axis=2) * 3  # beyond 1: clamped

  def transformer(self, taus, inputs, conditions, sample):
    self.given = dict(vars(conditions))
    return (self._result("transformer", len(taus), 2, 4, 6, 16) if taus else None,
            self._result("sampled", 1, 2, 4, 6, 16) if sample else None)


def run(variant="preview", off="", parts=(*PARTS, RUN), has_audio=True):
  ours, theirs = Side(variant, off), Side(variant)
  inputs = make_inputs(ours.config, variant, types.SimpleNamespace(exists=lambda: False), SIZE)
  comparison = Comparison(ours, theirs, parts, inputs,
                          make_conditions(ours.config, inputs, SIZE), has_audio)
  comparison.run()
  return comparison, ours


def test_every_part_is_compared():
  comparison, _ = run()
  assert [row.module for row in comparison.rows] == [
      "umT5", "CLIP", "wav2vec2", "VAE encode", "VAE decode", "transformer",
      "sampling run: latents", "sampling run: video"]
  assert all(row.holds and row.error == 0 for row in comparison.rows)
  assert {row.tolerance for row in comparison.rows[-2:]} == {1e-4}
  assert {row.tolerance for row in comparison.rows[:-2]} == {1e-5}


@pytest.mark.parametrize("off, failing", [
    ("text", ["umT5"]), ("encode", ["VAE encode"]), ("transformer", ["transformer"]),
    ("sampled", ["sampling run: latents", "sampling run: video"])])
def test_what_is_off_fails_and_nothing_else(off, failing):
  comparison, _ = run(off=off)
  assert [row.module for row in comparison.rows if not row.holds] == failing


def test_parts_that_are_left_out_are_not_run():
  comparison, ours = run(parts=["image_encoder"])
  assert [row.module for row in comparison.rows] == ["CLIP"] and not ours.given
  comparison, ours = run(parts=[RUN], has_audio=False)
  assert [row.module for row in comparison.rows] == [
      "sampling run, audio silenced: latents", "sampling run, audio silenced: video"]


@pytest.mark.parametrize("variant, audio", [("preview", (1, 10, 48)), ("flash", (1, 5, 5, 2, 48))])
def test_the_transformer_is_given_the_encoders_states(variant, audio):
  _, with_states = run(variant)
  _, drawn = run(variant, parts=["transformer"])
  for name, array in with_states.given.items():
    assert array.shape == drawn.given[name].shape and array.dtype == np.float32, name
    assert np.abs(array - drawn.given[name]).max() > 0.1, name
  assert with_states.given["audio"].shape == audio
  assert with_states.given["condition"].shape == (1, 2, 4, 6, 20)
  assert not with_states.given["prompt"][:, 192:].any()  # of 512 tokens


def test_the_error_is_of_the_largest_value():
  row = compare("x", np.array([1.0, -3.0]), np.array([1.0, -4.0]), 0.3)
  assert row.error == 0.25 and row.holds
  assert not compare("x", np.array([1.0, -3.0]), np.array([1.0, -4.0]), 0.2).holds


@pytest.mark.parametrize("ours, theirs, remark", [
    (np.zeros((2, 3)), np.zeros((3, 2)), r"shapes \(2, 3\) and \(3, 2\)"),
    (np.array([1.0, np.nan]), np.array([1.0, 2.0]), "not finite"),
    (np.array([1.0, 2.0]), np.array([1.0, np.inf]), "not finite"),
    (np.zeros(3), np.zeros(3), "one value everywhere"),
])
def test_what_tells_nothing_does_not_hold(ours, theirs, remark):
  row = compare("x", ours, theirs, 1e-5)
  assert not row.holds
  with pytest.raises(AssertionError, match=remark):
    raise AssertionError(row.remark)


def test_table_and_json():
  comparison, _ = run(parts=["image_encoder"])
  comparison.rows.append(Row("VAE", float("inf"), 1e-5, "not finite"))
  original = types.SimpleNamespace(files=(
      {"component": "vae", "file": "vae.pth", "bytes": 12345, "sha256": "ab" * 32},))
  found = report.content(comparison, {"vae": original},
                         {"variant": "preview", "frames": 5, "height": 32, "width": 48, "steps": 4},
                         {"against": "diffusers", "torch": "2.99"})
  assert json.loads(json.dumps(found, allow_nan=False)) == found
  assert not found["holds"] and [row["holds"] for row in found["rows"]] == [True, False]
  assert found["versions"]["torch"] == "2.99" and "jax" in found["versions"]
  text = report.table(found)
  for line in ("| CLIP | 0.0e+00 | 1e-05 | holds |", "| VAE | - | 1e-05 | FAILS not finite |",
               "1 of 2 hold. Variant preview, 5 frames of 32x48, 4 steps, against diffusers.",
               f"| vae | vae.pth | 12,345 | {'ab' * 32} |"):
    assert line in text.splitlines()


@pytest.mark.parametrize("change", [{"frames": 6}, {"frames": 1}, {"height": 40}, {"width": 16},
                                    {"steps": 1}, {"seed": -1}])
def test_sizes_that_cannot_be(change):
  with pytest.raises(InputError, match=f"--{next(iter(change))}="):
    Size(**change)
