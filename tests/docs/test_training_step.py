"""The listing of docs/training_step.md is the training step."""

import jax
import numpy as np

from emv3_jax.models.network import named_leaves
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.settings import DropoutConfig, OptimizerConfig
from tests.compiler import QUICK
from tests.docs.pages import ROOT, code_blocks
from tests.training import tiny

# An optimiser that sees the size of gradients, and losses of conditions that are no rarity.
CONFIG = tiny.config_of(Stage("sft", 100, learning_rate=1.0),
                        optimizer=OptimizerConfig(name="sgd", clip=1.0),
                        dropout=DropoutConfig(audio=0.3, audio_text=0.3, everything=0.2))
PAGE = (ROOT / "docs/training_step.md").read_text()


def test_the_listing_does_what_the_compiled_step_does():
  [listing] = code_blocks(PAGE, "python")
  names = {}
  exec(compile(listing, "docs/training_step.md", "exec"), names)
  batch, programs = tiny.batch_of(), tiny.programs_of(CONFIG)
  start = lambda: programs.initial_state(tiny.params_on(programs))
  want, metrics = programs.train_step_at(0)(start(), batch, tiny.EMPTY_TEXT)

  step = jax.jit(lambda state, batch: names["training_step"](
      CONFIG, programs.network, programs.optimizer, state, batch, tiny.EMPTY_TEXT,
      programs.forward.rope(batch.latents.shape)), compiler_options=QUICK)
  got, loss = step(start(), batch)

  np.testing.assert_allclose(loss, metrics["loss"], rtol=1e-6)
  assert got.keys() == want.keys() and got["step"] == want["step"] == 1
  for part in ("params", "ema"):
    before, got_, want_ = (named_leaves(tree) for tree in (
        tiny.params_of(programs.network), got[part], want[part]))
    for name, leaf in want_.items():
      moved = np.abs(leaf - before[name]).max()
      assert moved > 0, name
      np.testing.assert_allclose(got_[name], leaf, err_msg=name, rtol=0, atol=1e-3 * moved)
