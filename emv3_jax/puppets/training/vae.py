"""The small default's VAE: initialization, loss, and normalization of its latents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.models.network import Network, Params, named_leaves, nested
from emv3_jax.puppets.training.settings import VAESettings


def init_params(network: Network, seed: int) -> Params:
  """Random weights with which a clip is coded like its pictures one by one.

  Of a convolution in time and space only the tap of the present frame has weight; one in time
  alone averages the two frames that become one, or repeats the one that becomes two. So what was
  learnt on single pictures is where training on clips starts.
  """
  params = network.init(key_for(seed, Purpose.PARAMETERS))

  def timeless(kernel):
    if kernel.ndim != 5:
      return kernel
    channels = kernel.shape[3]
    if kernel.shape[1] > 1:
      return kernel.at[:-1].set(0)
    one = jnp.eye(channels, dtype=kernel.dtype)[None, None]
    if kernel.shape[4] == channels:
      return jnp.zeros_like(kernel).at[1:].set(one / 2)
    return jnp.zeros_like(kernel).at[-1].set(jnp.concatenate([one, one], -1))

  return jax.tree.map(timeless, params)


def make_loss(network: Network, settings: VAESettings) -> Callable:
  """The loss (params, batch, step) -> (value, metrics) of `footage.batch`.

    weighted mean of sqrt(error^2 + knee^2) - knee, and kl * mean(mu^2) / 2,

  the video decoded from mu + noise * normal. The divergence's other terms are constant.
  """

  def loss(params: Params, batch: dict, step: jax.Array):
    vae, video = network.bind(params), batch["video"]
    chunk = max(1, (video.shape[1] - 1) // vae.config.frames_per_latent)
    mean = vae.encode(video, chunk=chunk)
    draw = lambda example: jax.random.normal(
        key_for(settings.seed, Purpose.TRAINING_NOISE, step, example), mean.shape[1:])
    latents = mean + settings.noise * jax.vmap(draw)(jnp.arange(len(video)))
    error = vae.decode(latents, chunk=chunk) - (video.astype(jnp.float32) / 127.5 - 1)
    robust = jnp.sqrt(jnp.square(error) + settings.knee ** 2) - settings.knee
    weight = batch["weight"][..., None] / batch["weight"].mean()
    square = jnp.square(mean).mean()
    return (weight * robust).mean() + settings.kl * square / 2, {
        "psnr": -10 * jnp.log10(jnp.square(error / 2).mean()), "latent_square": square}

  return loss


def normalised(network: Network, params: Params, noise: float,
               latents: np.ndarray) -> Params:
  """Weights whose latents have mean 0 and variance 1 in each channel; they decode to the same.

  Wan's constants do this outside of its weights. Here the linear layers next to the latents take
  them in, so that a config need not know what a training came out with. The half of the moments
  that the loss holds fixed, the posterior's log variance, is set to what it was in training.

  Args:
    params: of `network`, whose config has latent_mean 0 and latent_std 1.
    noise: the posterior's standard deviation in training.
    latents: [..., z_dim], of which the statistics are taken.
  """
  flat = np.asarray(latents, np.float64).reshape(-1, latents.shape[-1])
  mean, std, channels = flat.mean(0), flat.std(0), flat.shape[1]
  leaves = {name: np.array(leaf, np.float64) for name, leaf in named_leaves(params).items()}
  kernel, bias = leaves["to_moments.kernel"], leaves["to_moments.bias"]
  kernel[:, :channels] /= std
  bias[:channels] = (bias[:channels] - mean) / std
  kernel[:, channels:] = 0
  bias[channels:] = 2 * np.log(noise / std)
  leaves["from_latents.bias"] += mean @ leaves["from_latents.kernel"]
  leaves["from_latents.kernel"] *= std[:, None]
  kinds = named_leaves(network.abstract)
  return nested({name: leaf.astype(kinds[name].dtype) for name, leaf in leaves.items()})
