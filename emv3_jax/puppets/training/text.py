"""The small default's text encoder: captions, what they tell, initialization and loss.

Trained to give away, at each of its tokens, all that the caption tells. So the transformer's attention
to the text finds the gesture or the colour of the wall wherever it looks.
"""

from collections.abc import Callable
import dataclasses
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax

from emv3_jax.conditioning.text import Tokenizer
from emv3_jax.diffusion.randomness import Purpose, key_for
from emv3_jax.models.network import Network, Params
from emv3_jax.puppets.training.settings import TextSettings
from emv3_jax.puppets.world import clips, palette
from emv3_jax.puppets.world.backdrop import PATTERNS
from emv3_jax.puppets.world.clips import ClipSpec
from emv3_jax.puppets.world.hair import STYLES
from emv3_jax.puppets.world.wardrobe import GARMENTS

UNTOLD = -1  # label of an attribute of which a text says nothing
# What captions tell, and the values it may have; "" is "none" where a caption's silence says so.
ATTRIBUTES = MappingProxyType({
    "hair": tuple(palette.HAIR), "hair_style": tuple(STYLES),
    "accessory": ("", "glasses", "freckles", "earrings"), "clothes": tuple(palette.CLOTHES),
    "garment": tuple(GARMENTS), "background": tuple(palette.BACKGROUND), "pattern": tuple(PATTERNS),
    "fingers": (1, 2, 3, 4, 6), "gesture": clips.GESTURES, "flaw": ("", *clips.FLAWS),
    "talks": (False, True)})


def labels(spec: ClipSpec) -> dict[str, int]:
  """The index, in ATTRIBUTES, of each value that the clip's caption tells."""
  identity = spec.identity
  values = {"hair": identity.hair, "hair_style": identity.hair_style, "accessory": identity.accessory,
            "talks": bool(spec.sentence),
            **{name: getattr(spec, name) for name in ("clothes", "garment", "background", "pattern",
                                                      "fingers", "gesture", "flaw")}}
  return {name: options.index(values[name]) for name, options in ATTRIBUTES.items()}


def example(settings: TextSettings, split: str, number: int) -> tuple[str, dict[str, int]]:
  """A text and what it tells: a caption, or some of a caption's phrases in any order.

  Puppets to train on have any hair with anything: else the colour of one's hair would tell its shape.

  Args:
    settings: its seed and share of fragments.
    split: whose clips are told of.
    number: of the example.
  """
  spec = clips.clip_spec(settings.seed, number, split)
  rng = np.random.default_rng((settings.seed, number))
  if split != "held_out":
    parts = {name: str(rng.choice(ATTRIBUTES[name])) for name in ("hair", "hair_style", "accessory")}
    spec = dataclasses.replace(spec, identity=dataclasses.replace(spec.identity, **parts))
  told = labels(spec)
  if rng.random() >= settings.fragments:
    return clips.caption(spec), told
  phrases = clips.phrases(spec)
  chosen = rng.permutation(len(phrases))[:rng.integers(1, len(phrases) + 1)]
  names = {name for index in chosen for name in phrases[index][1]}
  return (", ".join(phrases[index][0] for index in chosen),
          {name: label if name in names else UNTOLD for name, label in told.items()})


def batch(settings: TextSettings, tokenizer: Tokenizer, step: int, split: str = "crowd") -> dict:
  """What a step is trained on; depends on (settings.seed, step) alone.

  Returns:
    ids [b, m] int32; mask [b, m] bool, True for a text's tokens; labels, by attribute [b] int32.
  """
  first = step * settings.batch
  texts, told = zip(*(example(settings, split, first + index) for index in range(settings.batch)),
                    strict=True)
  ids, mask = tokenizer.tokenize(texts, settings.tokens)
  wider = settings.tokens - ids.shape[1]
  return {"ids": np.pad(ids, ((0, 0), (0, wider))), "mask": np.pad(mask, ((0, 0), (0, wider))),
          "labels": {name: np.array([each[name] for each in told], np.int32) for name in ATTRIBUTES}}


def init_params(network: Network, settings: TextSettings) -> Params:
  """Random weights of the encoder, and of the linear heads that only training has."""
  dim, key = network.abstract["norm"]["scale"].shape[0], key_for(settings.seed, Purpose.PARAMETERS)
  heads = {name: {"kernel": dim ** -0.5 * jax.random.normal(jax.random.fold_in(key, number),
                                                           (dim, len(options))),
                  "bias": jnp.zeros(len(options))}
           for number, (name, options) in enumerate(ATTRIBUTES.items(), 1)}
  return {"encoder": network.init(key), "heads": heads}


def make_loss(network: Network) -> Callable:
  """The loss (params, batch, step) -> (value, metrics) of `batch`.

  The cross-entropy of what a text tells, read linearly from each of its tokens: mean over the tokens
  of texts that tell an attribute, summed over attributes.
  """

  def loss(params: Params, batch: dict, step: jax.Array):
    states = network.bind(params["encoder"])(batch["ids"], batch["mask"])
    total, right = 0.0, []
    for name in ATTRIBUTES:
      head, label = params["heads"][name], batch["labels"][name]
      logits = states @ head["kernel"] + head["bias"]
      told = batch["mask"] * (label != UNTOLD)[:, None]
      wanted = jnp.broadcast_to(jnp.maximum(label, 0)[:, None], told.shape)
      count = jnp.maximum(told.sum(), 1)
      errors = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
      total += (errors * told).sum() / count
      right.append(((logits.argmax(-1) == wanted) * told).sum() / count)
    return total, {"read": jnp.stack(right).mean(), "worst_read": jnp.stack(right).min()}

  return loss
