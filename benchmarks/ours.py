"""The cases in JAX: random float32 weights, one compiled program each."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import cases
from emv3_jax.models import transformer, vae
from emv3_jax.models.network import Network
from emv3_jax.models.rope import rope_table, time_sinusoid
from emv3_jax.plan import flops


def build(case: cases.Case) -> tuple[Callable[[], None], float]:
  """Compiles a case.

  Returns:
    A function that runs it once to the end, and its GFLOP.
  """
  net, function, inputs = program(case)
  args = jax.tree.map(jnp.asarray, (net.untrained(0), *inputs))
  compiled = jax.jit(function).lower(*args).compile()
  return lambda: jax.block_until_ready(compiled(*args)), gflop(case)


def gflop(case: cases.Case) -> float:
  """Operations of matrix products and convolutions; nothing is run."""
  net, function, inputs = program(case)
  return flops.count(jax.jit(function).trace(net.abstract, *inputs)) / 1e9


def program(case: cases.Case) -> tuple[Network, Callable, tuple[np.ndarray, ...]]:
  """The network, the function of its parameters and of inputs that is timed, and the inputs."""
  return (_transformer if isinstance(case, cases.Transformer) else _vae)(case)


def _transformer(case: cases.Transformer):
  config = case.config
  net = transformer.network(config)
  normal = lambda *shape: np.random.default_rng(0).standard_normal(shape, np.float32)
  rope = rope_table(case.grid, config.head_dim)

  def forward(params, latents, condition, sinusoid, text, image, audio):
    model = net.bind(params)
    tokens = model.embed_context(text, image, audio)
    if not case.audio:  # no token to attend to: the expert's part of the sum is zero
      tokens = tokens._replace(audio=tokens.audio[:, :, :0])
    return model(latents, condition, sinusoid, tokens, rope=rope)

  latent_shape = (1, *case.latent_grid)
  return net, forward, (
      normal(*latent_shape, 16), normal(*latent_shape, 20),
      time_sinusoid(np.array([700.0]), config.freq_dim),
      normal(1, config.text_tokens, config.text_dim),
      normal(1, config.image_tokens, config.image_dim),
      normal(1, case.audio_tokens, config.audio_dim))


def _vae(case: cases.VAE):
  net = vae.network(case.config)
  draw = np.random.default_rng(0)
  if case.direction == "decode":
    side = case.side // case.config.pixels_per_latent
    x = draw.standard_normal((1, case.latents, side, side, case.config.z_dim), np.float32)
  else:
    x = draw.uniform(-1, 1, (1, case.frames, case.side, case.side, 3)).astype(np.float32)
  return net, lambda params, x: getattr(net.bind(params), case.direction)(x), (x,)
