"""One step of flow matching: its loss, its gradient, and what it may not depend on."""

import dataclasses
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.errors import InputError
from emv3_jax.models.cross_attention import PHASED
from emv3_jax.models.network import named_leaves
from emv3_jax.models.rope import rope_table, time_sinusoid
from emv3_jax.training.curriculum import Stage
from emv3_jax.training.objectives import draws, losses
from emv3_jax.training.settings import NDPOConfig, OptimizerConfig, TrainConfig
from emv3_jax.training.update import programs as programs_lib
from emv3_jax.training.update.state import is_audio
from emv3_jax.training.update.step import apply_gradients, make_train_step
from tests.compiler import QUICK
from tests.training import tiny

PLAIN = OptimizerConfig(name="sgd", b1=0.0, weight_decay=0.0, clip=0.0)
RATE = 1e-2
CONFIG = tiny.config_of(Stage("a", 1, learning_rate=RATE), Stage("b", 9, learning_rate=RATE),
                        optimizer=PLAIN, ema_decay=0.5)
BATCH = tiny.batch_of(range(8))


def _close(got, want, tolerance=1e-5):
  got, want = named_leaves(got), named_leaves(want)
  assert got.keys() == want.keys()
  for name, leaf in want.items():
    scale = max(np.abs(leaf).max(), 1e-8)
    np.testing.assert_allclose(got[name], leaf, err_msg=name, atol=tolerance * scale)


@pytest.fixture(scope="module")
def one_device():
  """Programs on one device, whose step may be traced once, and two steps of theirs."""
  chex.clear_trace_counter()
  once = lambda *arguments: chex.assert_max_traces(make_train_step(*arguments), n=1)
  with mock.patch.object(programs_lib, "make_train_step", once):
    programs = tiny.programs_of(CONFIG)
    state = programs.initial_state(tiny.params_on(programs))
    metrics = []
    for step in range(2):
      state = programs.begin_stage(state, step)
      kernel = state["params"]["head"]["linear"]["kernel"]
      state, more = programs.train_step_at(step)(state, BATCH, tiny.EMPTY_TEXT)
      assert kernel.is_deleted(), "the state is donated"
      metrics.append(jax.device_get(more))
  return programs, metrics, jax.device_get(state)


def _slow_error(velocity_of, config, batch, i):
  """The error of one example: its draws by hand, the loss in numpy."""
  row = jax.tree.map(lambda array: array[i:i + 1], batch)
  key = lambda purpose: key_for(config.seed, purpose, 0, int(batch.example[i]))
  sigma = float(jax.random.uniform(key(Purpose.TRAINING_SIGMA)))
  lost = draws.dropped_at(config.dropout, jax.random.uniform(key(Purpose.CONDITION_DROPOUT))[None])
  row = draws.drop_conditions(row, lost, jnp.asarray(tiny.EMPTY_TEXT))
  clean = batch.latents[i]
  noise = np.asarray(jax.random.normal(key(Purpose.TRAINING_NOISE), clean.shape))
  velocity = np.asarray(velocity_of(((1 - sigma) * clean + sigma * noise)[None], row,
                                    np.array([1000 * sigma], np.float32)))[0]
  face = np.kron(row.face_mask.reshape(tiny.GRID[1:]), np.ones((2, 2)))
  weights = 1 + config.loss.face * face + config.loss.mouth * row.mouth_mask[0]
  squares = np.square(velocity - (noise - clean)).mean(-1)
  return (weights * squares).sum() / weights.sum()


def test_the_loss_is_that_of_examples_one_by_one(one_device):
  programs, (metrics, _), _ = one_device
  model = programs.network.bind(tiny.params_of(programs.network))

  def velocity(x, row, tau):
    # What is known of a clip that has lost its image is nothing.
    known = jnp.concatenate([row.mask, row.masked_latents], axis=-1)
    context = model.embed_context(row.text, row.image, row.audio)
    return model(x, known, sinusoid_of(tau), context, rope=rope_table(tiny.GRID, 12),
                 face_mask=row.face_mask, modality_weights=PHASED.weights(tau))

  sinusoid_of = lambda tau: jax.pure_callback(
      lambda tau: time_sinusoid(tau, tiny.NETWORK.freq_dim),
      jax.ShapeDtypeStruct((1, tiny.NETWORK.freq_dim), jnp.float32), tau)
  velocity_of = jax.jit(velocity, compiler_options=QUICK)
  want = [_slow_error(velocity_of, programs.config, BATCH, i) for i in range(8)]
  np.testing.assert_allclose(metrics["error"], want, rtol=2e-5)
  np.testing.assert_allclose(metrics["loss"], np.mean(want), rtol=2e-5)
  np.testing.assert_array_equal(metrics["task"], BATCH.task)


@pytest.mark.parametrize("kind", ["sft", "reference", "absolute", "paired"])
def test_the_gradient_is_the_slope_of_the_loss(kind):
  ndpo_config = NDPOConfig("absolute" if kind == "absolute" else "reference", beta=0.5)
  programs = tiny.programs_of(dataclasses.replace(CONFIG, ndpo=ndpo_config))
  config, forward, batch = programs.config.objective, programs.forward, tiny.batch_of(range(2))
  params, other = (tiny.params_of(programs.network, seed) for seed in (1, 2))
  reference = jax.tree.map(lambda p, w: p + 0.1 * w, params, other)
  step, rope = jnp.int32(0), forward.rope(batch.latents.shape)
  batches = {"batch": batch}
  if kind == "sft":
    objective = losses.sft_objective(forward, config, step, tiny.EMPTY_TEXT, rope)
  elif kind == "paired":
    objective = losses.dpo_objective(forward, config, step, rope, reference)
    batches["positives"] = tiny.batch_of(range(2), seed=5)
  else:
    objective = losses.ndpo_objective(forward, config, step, rope, reference,
                                      losses.init_calibration())
  value_and_grad = jax.jit(jax.value_and_grad(objective, has_aux=True),
                           compiler_options=QUICK)
  (_, told), gradient = value_and_grad(params, batches)
  assert kind == "sft" or np.abs(told["d"] - told["d_ref"]).min() > 0.01

  def loss(params):
    value, more = value_and_grad(params, batches)[0]
    if kind == "absolute":  # whose beta, 1 / d, is held
      return np.log1p(np.exp(-more["d"] / told["d"])).mean()
    return value

  for seed in range(3):
    way = tiny.params_of(programs.network, seed=10 + seed)
    along = sum(np.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, way)), strict=True))
    ends = [loss(jax.tree.map(lambda p, w, h=h: p + h * w, params, way)) for h in (-1e-3, 1e-3)]
    np.testing.assert_allclose((ends[1] - ends[0]) / 2e-3, along, rtol=1e-2)


@pytest.mark.parametrize("sizes, parts", [
    (dict(fsdp=2, context=2, tensor=2), 1),
    pytest.param(dict(data=2, fsdp=4), 1, marks=pytest.mark.slow),
    (dict(data=2, context=4), 4)],
    ids=["fsdp2-context2-tensor2", "data2-fsdp4", "data2-context4-accumulate4"])
def test_eight_devices_and_parts_of_a_batch_do_what_one_does(sizes, parts, one_device):
  train = TrainConfig(batch=8, accumulate=parts, remat="full", attention="blocked")
  config = dataclasses.replace(tiny.on_mesh(CONFIG, **sizes), train=train)
  metrics, state = tiny.run(config, 2, batch=BATCH)
  _, want_metrics, want_state = one_device
  for got, want in zip(metrics, want_metrics, strict=True):
    _close(got, want)
  _close(state["params"], want_state["params"])
  _close(state["ema"], want_state["ema"])


def test_muon_takes_the_same_steps_on_eight_devices():
  """Its matrices are split over the mesh; what it makes of them has to see them whole."""
  # Fewer matrices, a smaller program.
  config = tiny.config_of(Stage("audio", 9, train="audio", learning_rate=RATE),
                          optimizer=OptimizerConfig(name="muon"))
  _, want = tiny.run(config, 2, batch=BATCH)
  _, got = tiny.run(tiny.on_mesh(config, fsdp=2, context=2, tensor=2), 2, batch=BATCH)
  _close(got["params"], want["params"], tolerance=1e-3)
  before = named_leaves(tiny.params_of(tiny.programs_of(config).network))
  name = "blocks.cross_attn.k_audio.kernel"
  assert np.abs(named_leaves(want["params"])[name] - before[name]).max() > 0.1 * RATE


def test_flow_matching_learns(one_device):
  """After thirty steps with draws of their own the loss with other draws is lower."""
  programs, _, _ = one_device

  def loss(state):  # of a step's draws far off
    state["step"] = jax.device_put(jnp.int32(500), state["step"].sharding)
    return float(programs.train_step_at(0)(state, BATCH, tiny.EMPTY_TEXT)[1]["loss"])

  state = programs.initial_state(tiny.params_on(programs))
  for step in range(30):
    state, _ = programs.train_step_at(step)(state, BATCH, tiny.EMPTY_TEXT)
  assert loss(state) < 0.85 * loss(programs.initial_state(tiny.params_on(programs)))
  assert tiny.num_compiled(programs.train_step_at(0)) == 1


def test_an_example_s_part_does_not_depend_on_the_others(one_device):
  programs, (want, _), _ = one_device
  order = [3, 0, 5, 9, 10, 11, 12, 7]
  state = programs.initial_state(tiny.params_on(programs))
  _, metrics = programs.train_step_at(0)(state, tiny.batch_of(order), tiny.EMPTY_TEXT)
  kept = [0, 1, 2, 7]
  for name in ("error", "sigma"):
    np.testing.assert_allclose(metrics[name][np.array(kept)], want[name][np.array(order)[kept]],
                               rtol=1e-5)
  assert tiny.num_compiled(programs.train_step_at(0)) == 1


def test_what_is_frozen_stays_as_it_is_and_has_no_moments():
  config = tiny.config_of(Stage("audio", 3, train="audio", learning_rate=1e-2))
  before = named_leaves(tiny.params_of(tiny.programs_of(config).network))
  _, state = tiny.run(config, 1)
  for name, leaf in named_leaves(state["params"]).items():
    assert np.array_equal(leaf, before[name]) != is_audio(name), name
  moments = {name.partition(".mu.")[2] for name in named_leaves(state["opt_state"])
             if ".mu." in name}
  assert moments == {name for name in before if is_audio(name)}
  assert {"blocks.cross_attn.k_audio.kernel", "audio_projection.proj.kernel"} <= moments


def test_an_update_by_hand():
  """Clipped, times the rate, off the weights; the average follows the new weights."""
  config = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(PLAIN, clip=2.5))
  programs = tiny.programs_of(config)
  tree = lambda value: {"kernel": jnp.array(value, jnp.float32)}
  state = {"step": jnp.int32(2), "params": tree([1.0, 2.0]), "ema": tree([3.0, 3.0])}
  state["opt_state"] = programs.optimizer.init(state["params"])
  new, scalars = apply_gradients(state, state["params"], {}, tree([3.0, -4.0]), programs.optimizer,
                                 programs.stages, clip=2.5, ema_decay=config.ema_decay)
  params = np.array([1 - RATE * 1.5, 2 + RATE * 2.0])
  np.testing.assert_allclose(new["params"]["kernel"], params, rtol=1e-6)
  decay = 3 / 12
  np.testing.assert_allclose(new["ema"]["kernel"], decay * 3 + (1 - decay) * params, rtol=1e-6)
  assert scalars["grad_norm"] == 5 and new["step"] == 3
  np.testing.assert_allclose([scalars["learning_rate"], scalars["ema_decay"]], [RATE, decay])


def test_batches_that_do_not_fit_are_refused():
  programs = tiny.programs_of(tiny.on_mesh(tiny.config_of(
      train=TrainConfig(accumulate=2)), data=2))
  step = programs.train_step_at(0)
  call = lambda batch: step(programs.abstract_state(0), batch, tiny.EMPTY_TEXT)
  with pytest.raises(InputError, match="batch of 3 does not divide over data 2"):
    call(tiny.batch_of(range(3)))
  with pytest.raises(InputError, match="batch of 6 .* train.accumulate 2"):
    call(tiny.batch_of(range(6)))
