"""CDCA, the coupled-decoupled cross attention (eq. 1), and PhDA, its timestep weights (eq. 2).

One query serves three experts with their own keys and values: text, image and audio. Their outputs
are weighted by W(c, tau) and summed before the one output projection:

  z_o = W_o sum_c W(c, tau) attention(norm(W_q z), K_c, V_c)

Only the query depends on the noisy video, so keys and values are computed once a clip.
"""

import dataclasses
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32
import numpy as np

from emv3_jax.arrays import AnyArray
from emv3_jax.attention.local import attend_by_frame
from emv3_jax.geometry import TAU_MAX
from emv3_jax.models.execution import ExecutionConfig
from emv3_jax.models.norms import RMSNorm
from emv3_jax.models.precision import Precision

MODALITIES = ("text", "image", "audio")


class ContextTokens(NamedTuple):
  """Embedded conditions, the same for every layer.

  Attributes:
    text: [b, m, d].
    image: [b, m, d].
    audio: [b, f, m, d], the tokens of each latent frame.
  """

  text: Float[jax.Array, "b m d"]
  image: Float[jax.Array, "b m2 d"]
  audio: Float[jax.Array, "b f m3 d"]

  @property
  def frames(self) -> int:
    return self.audio.shape[-3]


class Context(NamedTuple):
  """Keys and values of the experts, of one layer or with a leading [layers] axis.

  Attributes:
    text, image: (keys, values), each [b, m, n, k].
    audio: (keys, values), each [b, f, m, n, k].
  """

  text: tuple[jax.Array, jax.Array]
  image: tuple[jax.Array, jax.Array]
  audio: tuple[jax.Array, jax.Array]

  @property
  def frames(self) -> int:
    return self.audio[0].shape[-4]


class CrossAttention(nnx.Module):
  """CDCA. Audio keys and values have no bias in preview, where padded audio tokens are zeros: key
  0, logit 0, value 0, and part of the softmax. They have a bias in flash.

  Flash's checkpoints also hold `q_audio`, a linear map of the shared query. The released network
  evaluates it and then attends with the shared query all the same, so here it is only kept.
  """

  def __init__(self, dim: int, num_heads: int, *, biased_audio: bool, eps: float, precision: Precision,
               rngs: nnx.Rngs):
    def linear(kernel_init=None, use_bias=True):
      return nnx.Linear(
          dim, dim, use_bias=use_bias, dtype=precision.compute_dtype,
          param_dtype=precision.param_dtype, precision=precision.matmul,
          kernel_init=kernel_init or nnx.initializers.xavier_uniform(), rngs=rngs)

    norm = lambda: RMSNorm(dim, eps=eps, precision=precision)
    self.q, self.k, self.v, self.o = linear(), linear(), linear(), linear()
    self.norm_q, self.norm_k = norm(), norm()
    self.k_img, self.v_img, self.norm_k_img = linear(), linear(), norm()
    if biased_audio:
      self.q_audio, self.k_audio, self.v_audio = linear(), linear(), linear()
    else:
      # Zeros: a base model extended by audio starts with its own numbers.
      zeros = lambda: linear(nnx.initializers.zeros, use_bias=False)
      self.k_audio, self.v_audio = zeros(), zeros()
    self.norm_k_audio = norm()
    self.num_heads = num_heads

  def context(self, tokens: ContextTokens, execution: ExecutionConfig) -> Context:
    """Keys and values of this layer; the only use that is made of the conditions."""

    def expert(x, key, norm, value):
      axes = ("batch", *(None,) * (x.ndim - 2), "heads", None)
      place = lambda t: execution.constrain(self._heads(t), *axes)
      return place(norm(key(x))), place(value(x))

    return Context(
        text=expert(tokens.text, self.k, self.norm_k, self.v),
        image=expert(tokens.image, self.k_img, self.norm_k_img, self.v_img),
        audio=expert(tokens.audio, self.k_audio, self.norm_k_audio, self.v_audio))

  def __call__(self, x: Float[jax.Array, "b s d"], context: Context, *,
               face_mask: Float[AnyArray, "b positions *f"] | None, audio_gain: float | jax.Array,
               modality_weights: Float32[AnyArray, "b 3"] | None, execution: ExecutionConfig
               ) -> Float[jax.Array, "b s d"]:
    """The injected conditions, to be added to the residual stream.

    Args:
      x: normed video tokens, space-major.
      context: this layer's keys and values.
      face_mask: a factor on the audio expert's output, any real value: [b, positions], at each of the s / f positions of
        a frame, the same in all frames, or [b, positions, f], in each latent frame; None is 1.
      audio_gain: factor on the audio expert's output.
      modality_weights: W(c, tau) of MODALITIES; None is 1, as the released weights.
      execution: how the network is run; keys and values are on every shard of the tokens.

    Returns:
      In the dtype of `x`.
    """
    shared = self._heads(self.norm_q(self.q(x)))
    shared = execution.constrain(shared, "batch", "length", "heads", None)
    with jax.named_scope("text"):
      text = execution.cross_attend(shared, *context.text).astype(jnp.float32)
    with jax.named_scope("image"):
      image = execution.cross_attend(shared, *context.image).astype(jnp.float32)
    with jax.named_scope("audio"):
      audio = attend_by_frame(shared, *context.audio).astype(jnp.float32)
    if face_mask is not None:
      mask = (jnp.repeat(face_mask.astype(jnp.float32), context.frames, axis=1) if face_mask.ndim == 2
              else face_mask.astype(jnp.float32).reshape(audio.shape[:2]))
      audio *= mask[:, :, None, None]
    audio *= audio_gain
    if modality_weights is not None:
      weights = modality_weights.astype(jnp.float32)[:, :, None, None, None]
      text, image, audio = text * weights[:, 0], image * weights[:, 1], audio * weights[:, 2]
    mixed = (text + image + audio).astype(x.dtype)
    return self.o(mixed.reshape(x.shape))

  def _heads(self, x):
    return x.reshape(*x.shape[:-1], self.num_heads, x.shape[-1] // self.num_heads)


@dataclasses.dataclass(frozen=True)
class PhaseCurve:
  """A weight over the timestep: piecewise linear through `knots`, constant beyond the ends.

  Attributes:
    knots: (tau, weight) pairs, tau ascending in [0, 1000]. Two knots at one tau are a step, which
      takes its later weight at tau itself.

  Raises:
    ValueError: no knots, knots out of order or out of range.
  """

  knots: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

  def __post_init__(self):
    taus = [tau for tau, _ in self.knots]
    if not taus or taus != sorted(taus) or not 0 <= taus[0] <= taus[-1] <= TAU_MAX:
      raise ValueError(f"PhaseCurve knots at tau {taus}: expected one or more, ascending, in "
                       f"[0, {TAU_MAX:g}].")

  @classmethod
  def rising(cls, start: float, end: float, floor: float = 0.5) -> "PhaseCurve":
    """Eq. 2: `floor` below start (B1), 1 from end (B2) on, linear between; B1 = B2 is a step."""
    return cls(((start, floor), (end, 1.0)))

  def silent_from(self, tau: float) -> "PhaseCurve":
    """This curve below `tau`, 0 from there up to pure noise."""
    kept = tuple(knot for knot in self.knots if knot[0] < tau)
    return PhaseCurve((*kept, (tau, self.at(tau)), (tau, 0.0)))

  def at(self, tau: float) -> float:
    """Weight at one timestep, on the host."""
    taus, weights = np.array(self.knots, np.float64).T
    return float(_piecewise_linear(np.float64(tau), taus, weights, np))


def _piecewise_linear(tau, knot_taus, knot_weights, xp=jnp):
  """tau [...], knot_taus [..., j], knot_weights [j] -> [...]."""
  start, end = knot_taus[..., :-1], knot_taus[..., 1:]
  tau = tau[..., None]
  # Multiplied by the reciprocal, as XLA divides by what has fewer axes: host and device agree in every bit.
  ramp = (tau - start) * (1 / xp.where(end > start, end - start, xp.ones_like(end)))
  passed = xp.where(end > start, xp.clip(ramp, 0.0, 1.0), tau >= end)
  return knot_weights[0] + (passed * xp.diff(knot_weights)).sum(-1)


class PhaseKnots(NamedTuple):
  """The curves of MODALITIES as arrays, so that each example of a batch can have its own.

  Attributes:
    taus: for each modality [j] or [b, j], ascending.
    weights: for each modality [j].
  """

  taus: tuple[AnyArray, ...]
  weights_at: tuple[AnyArray, ...]

  def weights(self, tau: Float[AnyArray, "b"]) -> Float32[AnyArray, "b 3"]:
    """W(c, tau) of tau in [0, 1000], in the order of MODALITIES."""
    xp = jnp if any(isinstance(array, jax.Array) for array in (tau, *self.taus)) else np  # on the host nothing is compiled
    tau = xp.asarray(tau, np.float32)
    return xp.stack([_piecewise_linear(tau, *curve, xp)
                     for curve in zip(self.taus, self.weights_at, strict=True)], axis=-1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class PhaseAllocation:
  """PhDA: which modality counts how much in which phase of the diffusion."""

  text: PhaseCurve = PhaseCurve()
  image: PhaseCurve = PhaseCurve()
  audio: PhaseCurve = PhaseCurve()

  def knots(self) -> PhaseKnots:
    curves = [np.array(getattr(self, modality).knots, np.float32).T for modality in MODALITIES]
    return PhaseKnots(tuple(taus for taus, _ in curves), tuple(weights for _, weights in curves))

  def weights(self, tau: Float[AnyArray, "b"]) -> Float32[AnyArray, "b 3"]:
    """W(c, tau) of tau in [0, 1000], in the order of MODALITIES."""
    return self.knots().weights(tau)

  def jittered(self, key: jax.Array, std: float, batch: int) -> PhaseKnots:
    """Knots drawn per example for training ("sampled from a meta distribution").

    Every knot's tau moves by a normal number of deviation `std`, then they are clipped to [0, 1000]
    and sorted. 0 gives `knots()`.
    """
    knots = self.knots()

    def move(key, taus):
      moved = taus + std * jax.random.normal(key, (batch, taus.size))
      return jnp.sort(jnp.clip(moved, 0.0, TAU_MAX), axis=-1)

    keys = jax.random.split(key, len(MODALITIES))
    return knots._replace(taus=tuple(map(move, keys, knots.taus)))


# Early is noisy: large tau. The paper gives neither critical timesteps nor bounds of its phases;
# these values and the thirds are this project's choice.
EARLY = 2 / 3 * TAU_MAX
MIDDLE = 1 / 3 * TAU_MAX
RELEASED = PhaseAllocation()
PHASED = PhaseAllocation(text=PhaseCurve.rising(0, 0), image=PhaseCurve.rising(200, 400),
                         audio=PhaseCurve.rising(500, 800))
ALLOCATIONS = {
    "released": RELEASED,
    "phased": PHASED,
    # The paper's ablations: no audio early, no text early and mid, no image early.
    "a": dataclasses.replace(PHASED, audio=PHASED.audio.silent_from(EARLY)),
    "b": dataclasses.replace(PHASED, text=PHASED.text.silent_from(MIDDLE)),
    "c": dataclasses.replace(PHASED, image=PHASED.image.silent_from(EARLY)),
}
