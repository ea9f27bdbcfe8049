"""Our side reads the folder: parameters widened to float32, one layer of umT5 at a time."""

import jax
import numpy as np

from emv3_jax.io.checkpoints import load_component
from emv3_jax.models import umt5
from emv3_jax.verify import originals
from emv3_jax.verify.inputs import Size, make_inputs
from emv3_jax.verify.ours import Ours
from tests.verify.small_model import CONFIGS


def test_text_is_that_of_the_stored_parameters(text_model, monkeypatch):
  model, _ = text_model
  card = originals.read_folder(model, ["text_encoder"])
  ours = Ours(card, ["text_encoder"], steps=2, audio_gain=0.0)
  assert ours.settings.audio_gain == 0 and ours.settings.steps == 2
  assert ours.config.text_encoder == CONFIGS["text_encoder"]
  inputs = make_inputs(ours.config, None, model / "tokenizer.json", Size())
  monkeypatch.setattr(ours.model, "_load", None)  # never as a whole
  got = ours.text(inputs)
  network = umt5.network(CONFIGS["text_encoder"])
  params = load_component(model, "text_encoder", network.abstract)
  want = jax.jit(network.bind(params))(inputs.ids, inputs.mask)
  mask = inputs.mask
  np.testing.assert_allclose(got[mask], np.asarray(want)[mask], rtol=0,
                             atol=1e-5 * float(np.abs(want).max()))
