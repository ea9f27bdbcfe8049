"""The transformer against the reference's numbers, and its ways of running against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emv3_jax.attention.local import attend_blocked, attend_xla
from emv3_jax.diffusion import step_caches
from emv3_jax.models import transformer
from emv3_jax.models.execution import ExecutionConfig
from emv3_jax.models.network import named_leaves
from emv3_jax.models.precision import FLOAT32, Precision
from emv3_jax.models.rope import Riflex, rope_table, time_sinusoid
from tests import golden_data
from tests.models import official_weights

TINY = transformer.TransformerConfig(
    dim=96, ffn_dim=192, num_heads=3, num_layers=2, freq_dim=64, text_dim=64, text_tokens=64)
CONFIGS = {
    "preview": TINY,
    "flash": transformer.TransformerConfig(
        variant="flash", dim=96, ffn_dim=192, num_heads=3, num_layers=2, freq_dim=64, text_dim=64,
        text_tokens=64, audio_dim=16, audio_layers=3, audio_hidden=32),
}


def _named(how) -> str:
  """Test id of a way of running: its options, functions by name."""
  if not isinstance(how, dict):
    return str(how)
  bare = lambda value: getattr(value, "func", value)
  return " ".join(f"{key}={getattr(bare(value), '__name__', value)}"
                  for key, value in how.items())


@functools.cache
def _params(variant, dtype=jnp.float32):
  return official_weights.convert(golden_data.load(variant, "weights").arrays, dtype)


def _inputs(variant, name):
  """Conditions, call arguments and call options of a golden case, and its output."""
  case = golden_data.load(variant, name)
  b = case["in.x"].shape[0]
  last = lambda x: np.moveaxis(x, 1, -1)
  text = np.zeros((b, 12, 64), np.float32)
  for row in range(b):
    tokens = case[f"in.context.{row}"]
    text[row, :len(tokens)] = tokens
  image = np.broadcast_to(case["in.clip_fea"], (b, *case["in.clip_fea"].shape[1:]))
  latents = last(case["in.x"])
  _, f, height, width, _ = latents.shape
  riflex = Riflex(k=6, frames=f) if "riflex" in name else None
  args = (latents, last(case["in.y"]), time_sinusoid(case["in.t"], 64))
  options = dict(rope=rope_table((f, height // 2, width // 2), 32, riflex))
  if variant == "preview":
    options |= dict(face_mask=case["in.ip_mask"], audio_gain=case.meta["audio_scale"])
  return (text, image, case["in.audio"]), args, options, last(case["out"])


def _run(fn, *args):
  """Compiled without LLVM's optimisations: the tests' time is compilation."""
  quick = {"xla_backend_optimization_level": 0}
  return jax.jit(fn).lower(*args).compile(compiler_options=quick)(*args)


def _velocity(variant, name, *, precision=FLOAT32, cached=True, run=_run, **how):
  """In `how`: fields of `ExecutionConfig`."""
  execution = ExecutionConfig(**how)
  conditions, args, options, _ = _inputs(variant, name)
  net = transformer.network(CONFIGS[variant], precision)

  def velocity(params, conditions, args, options):
    model = net.bind(params)
    context = (model.project if cached else model.embed_context)(*conditions, execution)
    return model(*args, context, **options, execution=execution)

  return run(velocity, _params(variant, precision.param_dtype), conditions, args, options)


_velocity_once = functools.cache(_velocity)


def _as_shipped(fn, *args):
  return jax.jit(fn)(*args)


@golden_data.cases("preview", "case_*")
def test_preview_equals_reference(name):
  got = _velocity("preview", name, run=_as_shipped)
  golden_data.check("transformer preview", got, _inputs("preview", name)[-1], 1e-5)


@golden_data.external_cases("flash", "case_*")
def test_flash_equals_reference(name):
  got = _velocity("flash", name, run=_as_shipped)
  golden_data.check("transformer flash", got, _inputs("flash", name)[-1], 1e-5)


def test_bfloat16_stays_near_float32():
  want = _velocity_once("preview", "case_a_f5")
  got = _velocity("preview", "case_a_f5", precision=Precision("bfloat16", "bfloat16"))
  assert got.dtype == jnp.float32
  assert jnp.linalg.norm(got - want) <= 2e-2 * jnp.linalg.norm(want)


@pytest.mark.parametrize("how", [
    dict(cached=False),
    dict(token_blocks=3),
    dict(token_blocks=5, length_shards=3, cached=False),
    dict(attend=attend_xla, cross_attend=attend_xla),
    dict(attend=functools.partial(attend_blocked, block=7), token_blocks=5),
], ids=_named)
def test_every_way_of_running_gives_the_same_numbers(how):
  want = _velocity_once("preview", "case_a_f5")
  np.testing.assert_allclose(_velocity("preview", "case_a_f5", **how), want, atol=2e-6, rtol=1e-5)


@functools.cache
def _gradients(cached=False, attend=attend_xla, **how):
  execution = ExecutionConfig(attend=attend, cross_attend=attend, **how)
  conditions, args, options, target = _inputs("preview", "case_a_f5")
  net = transformer.network(TINY)

  def gradients(params, conditions, args, options):
    def loss(params):
      model = net.bind(params)
      context = (model.project if cached else model.embed_context)(*conditions)
      out = model(*args, context, **options, execution=execution)
      return jnp.mean(jnp.square(out - 0.5 * target))
    return jax.grad(loss)(params)

  return named_leaves(_run(gradients, _params("preview"), conditions, args, options))


@pytest.mark.parametrize("how", [
    dict(remat="full", cached=True),
    dict(remat="attention"),
    pytest.param(dict(remat="dots_saveable"), marks=pytest.mark.slow),
    dict(remat="dots_with_no_batch_dims_saveable"),
    dict(token_blocks=5, remat="full", attend=attend_blocked),
], ids=_named)
def test_every_way_of_running_gives_the_same_gradients(how):
  want, got = _gradients(), _gradients(**how)
  assert want.keys() == got.keys()
  for name in want:
    scale = np.abs(want[name]).max()
    assert scale > 0, f"no gradient reaches {name}"
    np.testing.assert_allclose(got[name], want[name], atol=2e-5 * scale, err_msg=name)


def test_activations_are_constrained_and_parameters_gathered():
  seen, paths = set(), set()

  def constrain(x, *axes):
    assert len(axes) == x.ndim
    seen.add(axes)
    return x

  def gather(module, path):
    paths.add(path)
    return module

  def abstract(fn, *args):
    return jax.eval_shape(fn, *args)

  _velocity("preview", "case_a_f5", constrain=constrain, gather=gather, cached=False, run=abstract)
  assert paths == {"text_embedding", "image_embedding", "audio_projection", "patch_embedding",
                   "blocks", "head"}
  assert {("batch", "length", None), ("batch", "length", "heads", None), ("batch", "length", "mlp"),
          ("batch", None, "heads", None), ("batch", None, None, "heads", None)} <= seen


def test_modality_weights_scale_their_expert():
  conditions, args, options, _ = _inputs("preview", "case_a_f5")
  net = transformer.network(TINY)
  ones = jnp.ones((3, 3))

  def velocities(params, conditions, args, options):
    model = net.bind(params)
    context = model.project(*conditions)
    run = lambda weights, gain: model(
        *args, context, **options | dict(modality_weights=weights, audio_gain=gain))
    # One compiled body for all cases.
    return jax.lax.map(lambda case: run(*case), (
        jnp.stack([ones, ones.at[:, 2].set(0), ones, ones.at[1, 0].set(0.5)]),
        jnp.array([0.7, 0.7, 0.0, 0.7])))

  plain, no_audio, no_gain, less_text = _run(
      velocities, _params("preview"), conditions, args, options)
  np.testing.assert_allclose(plain, _velocity_once("preview", "case_a_f5"), atol=1e-5)
  np.testing.assert_allclose(no_audio, no_gain, atol=1e-6)
  assert np.abs(no_audio - plain).max() > 1e-3
  assert np.abs(less_text - plain)[1].max() > 1e-3
  np.testing.assert_allclose(less_text[::2], plain[::2], atol=1e-6)


def test_the_block_stack_can_be_replaced_by_its_residual():
  conditions, args, options, _ = _inputs("preview", "case_a_f5")
  net = transformer.network(TINY)

  def velocity(params, conditions, args, options):
    model = net.bind(params)
    e, e0 = model.time_modulation(args[2])
    x = model.embed(*args[:2])
    residual = model.run_blocks(x, e0, model.project(*conditions), **options) - x
    return model.run_head(x + residual, e, (2, 3, 5))

  np.testing.assert_allclose(_run(velocity, _params("preview"), conditions, args, options),
                             _velocity_once("preview", "case_a_f5"), atol=1e-5)


def test_full_size_parameter_counts():
  count = lambda **config: transformer.network(transformer.TransformerConfig(**config)).num_params()
  assert count() == 1_707_215_168
  assert count(variant="flash") == 1_863_772_992


def test_initial_parameters():
  leaves = named_leaves(_run(transformer.network(TINY).init, jax.random.key(0)))
  for name in ("blocks.cross_attn.k_audio.kernel", "blocks.cross_attn.v_audio.kernel",
               "head.linear.kernel"):
    assert np.abs(leaves[name]).max() == 0, name
  layers = leaves["blocks.self_attn.q.kernel"]
  assert np.abs(layers[0] - layers[1]).max() > 0
  np.testing.assert_allclose(np.abs(layers).max(), np.sqrt(3 / 96), rtol=1e-2)


def test_parameters_are_checked_by_name():
  params = dict(_params("preview"))
  params["haed"] = params.pop("head")
  with pytest.raises(ValueError, match="missing head.modulation(.|\n)*unexpected haed"):
    transformer.network(TINY).bind(params)
  with pytest.raises(ValueError, match="unexpected blocks.cross_attn.q_audio"):
    transformer.network(TINY).bind(transformer.network(CONFIGS["flash"]).untrained(0))


def test_inputs_that_do_not_fit_are_named():
  (text, image, audio), args, options, _ = _inputs("preview", "case_a_f5")
  net = transformer.network(TINY)

  def project(*conditions):
    return jax.eval_shape(lambda *c: net.bind(_params("preview")).project(*c), *conditions)

  def run(context, args=args, **how):
    model = net.bind(_params("preview"))
    return jax.eval_shape(lambda *a: model(*a, **(options | how)), *args, context)

  with pytest.raises(ValueError, match="text is"):
    project(np.zeros((3, 65, 64), np.float32), image, audio)
  with pytest.raises(ValueError, match="image is"):
    project(text, image[:, 1:], audio)
  with pytest.raises(ValueError, match="audio is"):
    project(text, image, audio[..., 1:])
  context = project(text, image, np.zeros((3, 18, 768), np.float32))
  with pytest.raises(ValueError, match="2 frames, the audio is of 3"):
    run(context)
  context = project(text, image, audio)
  with pytest.raises(ValueError, match="rope of 24"):
    run(context, rope=rope_table((2, 3, 4), 32))
  with pytest.raises(ValueError, match="face_mask is"):
    run(context, face_mask=np.zeros((3, 14), np.float32))
  with pytest.raises(ValueError, match=r"face_mask is \(3, 15, 3\); expected \[b, 15\] or \[b, 15, 2\]"):
    run(context, face_mask=np.zeros((3, 15, 3), np.float32))
  with pytest.raises(ValueError, match="remat is 'most'"):
    run(context, execution=ExecutionConfig(remat="most"))
  with pytest.raises(ValueError, match="token_blocks 2"):
    run(context, execution=ExecutionConfig(token_blocks=2))
  with pytest.raises(ValueError, match="even height"):
    run(context, args=(args[0][:, :, 1:], args[1][:, :, 1:], args[2]))
  with pytest.raises(ValueError, match="36 channels"):
    run(context, args=(args[0], args[1][..., 1:], args[2]))
  with pytest.raises(ValueError, match="variant is 'flsh'"):
    transformer.TransformerConfig(variant="flsh")


def test_teacache_skips_the_steps_of_the_reference():
  case = golden_data.load("preview", "teacache_decisions")
  sinusoid = time_sinusoid(np.float32(case.meta["timesteps"]), TINY.freq_dim)
  e0 = _run(lambda params, x: transformer.network(TINY).bind(params).time_modulation(x)[1], _params("preview"), sinusoid)
  changes = step_caches.relative_changes(np.asarray(e0))
  want = case.meta["rel_l1_distance(e0 vs previous e0)"]
  golden_data.check("TeaCache's changes", changes[1:], np.array(want[1:]), 1e-5)
  runs = step_caches.teacache(changes, case.meta["coefficients (np.poly1d order)"], step_caches.Limits(
      case.meta["rel_l1_thresh"], case.meta["num_skip_start_steps"], max_skips=len(changes)))
  assert runs.tolist() == [call == "blocks_ran" for call in case.meta["per_call"]]


def test_a_step_s_own_residual_gives_its_velocity_again():
  conditions, args, options, _ = _inputs("preview", "case_a_f5")

  def both(params):
    model = transformer.network(TINY).bind(params)
    velocity, residual = model.with_residual(*args, model.project(*conditions), **options)
    return velocity, model.from_residual(*args, residual)

  velocity, again = _run(both, _params("preview"))
  np.testing.assert_allclose(velocity, _velocity_once("preview", "case_a_f5"), atol=2e-6, rtol=1e-5)
  np.testing.assert_allclose(again, velocity, atol=2e-6, rtol=1e-5)


@golden_data.external_cases("preview", "teacache")
def test_skipped_steps_equal_the_reference(name):
  case = golden_data.load("preview", name)
  last = lambda x: np.moveaxis(x, -4, -1)
  latents, condition = last(case["in.x"]), last(case["in.y"])
  text = np.zeros((3, 12, 64), np.float32)
  for row, prompt in enumerate((0, 1, 1)):
    text[row, :len(case[f"in.context.{prompt}"])] = case[f"in.context.{prompt}"]
  sinusoids = np.repeat(time_sinusoid(case["in.timesteps"], 64)[:, None], 3, axis=1)
  net = transformer.network(TINY)

  @jax.jit
  def run(params, x, sinusoid):
    model = net.bind(params)
    context = model.project(text, case["in.clip_fea"], case["in.audio"])
    return model.with_residual(x, condition, sinusoid, context, rope=rope_table((2, 2, 3), 32), face_mask=case["in.ip_mask"])

  skip = jax.jit(lambda params, x, sinusoid, kept: net.bind(params).from_residual(x, condition, sinusoid, kept))
  residual = None
  for i, call in enumerate(case.meta["per_call"]):
    if call == "blocks_ran":
      velocity, residual = run(_params("preview"), latents[i], sinusoids[i])
    else:
      velocity = skip(_params("preview"), latents[i], sinusoids[i], residual)
    golden_data.check("skipped steps", velocity, last(case["outs"])[i], 1e-5)
