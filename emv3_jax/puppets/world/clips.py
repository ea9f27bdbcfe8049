"""What happens in a clip, drawn by lot from (seed, index), and the caption that tells it."""

import dataclasses

import numpy as np

from emv3_jax.errors import InputError
from emv3_jax.puppets.world import palette
from emv3_jax.puppets.world.backdrop import PATTERNS
from emv3_jax.puppets.world.identities import CROWD, HELD_OUT, TRAIN, Identity, mixed
from emv3_jax.puppets.world.sentences import Sentence, sentences
from emv3_jax.puppets.world.wardrobe import GARMENTS

GESTURES = ("stays calm", "waves", "lifts a hand", "nods", "shakes the head", "tilts the head")
FLAWS = ("six fingers", "jerky motion", "colour drift")
FLAW_SHARE = 0.2  # of training clips
SILENT_SHARE = 0.06  # of training clips

_SPLITS = {"train": (0, TRAIN), "held_out": (1, HELD_OUT), "crowd": (2, CROWD), "mixed": (3, ())}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_FLAW_WORDS = {
  "six fingers": "Bad drawing with six fingers on the hand.",
  "jerky motion": "Bad animation with jerky motion.",
  "colour drift": "Bad video with drifting colours.",
}
_HAIR_WORDS = {
  "bob": "a {} bob", "curly": "curly {} hair", "spiky": "spiky {} hair", "short": "short {} hair",
  "long": "long {} hair", "bun": "a {} bun", "pigtails": "{} pigtails",
}


@dataclasses.dataclass(frozen=True)
class ClipSpec:
  """All that a clip is made from; equal specs render to equal pixels.

  Attributes:
    seed: of the motion.
    identity: who speaks.
    clothes, garment: a colour in `palette.CLOTHES`, a cut in `wardrobe.GARMENTS`.
    background, pattern: a colour in `palette.BACKGROUND`, one of `backdrop.PATTERNS`.
    fingers: how many the hand shows, 1 to 4, or 6 where that is the flaw.
    hand_side: -1 left in the picture, 1 right.
    gesture: one of `GESTURES`.
    flaw: one of `FLAWS`, or "".
    sentence: name of what is said, or "" for a silent clip.
    start: frame of the sentence at which the clip begins; sound outside the sentence is silence.
    frames: length, 25 a second.
  """

  seed: int
  identity: Identity
  clothes: str
  garment: str
  background: str
  pattern: str
  fingers: int
  hand_side: int
  gesture: str
  flaw: str = ""
  sentence: str = ""
  start: int = 0
  frames: int = 17


def clip_spec(seed: int, index: int, split: str = "train", frames: int = 17) -> ClipSpec:
  """The `index`-th clip of the world `seed`: the same whenever and wherever it is asked for.

  Training clips, `train`, `crowd` and `mixed`, are flawed with probability 0.2 and silent with probability
  0.06; held-out clips never are, and have other puppets, voices and sentences.

  Raises:
    InputError: unknown split, or no frame.
  """
  if split not in _SPLITS:
    raise InputError(f"no split {split!r} of the puppets; there are {', '.join(_SPLITS)}")
  if frames < 1:
    raise InputError(f"a clip needs at least one frame: got {frames}")
  number, people = _SPLITS[split]
  rng = np.random.default_rng((seed, number, index))
  pick = lambda options: options[rng.integers(len(options))]
  training = split != "held_out"
  identity = pick(people) if people else mixed(rng)  # of `mixed` each clip has a puppet of its own
  clothes, garment = pick(tuple(palette.CLOTHES)), pick(GARMENTS)
  background, pattern = pick(tuple(palette.BACKGROUND)), pick(PATTERNS)
  fingers, hand_side, gesture = int(rng.integers(1, 5)), int(pick((-1, 1))), pick(GESTURES)
  spoken = pick(sentences("train" if training else split))
  start = _start(rng, spoken, frames)
  flaw = pick(FLAWS) if rng.random() < FLAW_SHARE and training else ""
  silent = rng.random() < SILENT_SHARE and training
  return ClipSpec(
    seed=int(rng.integers(2**31)), identity=identity, clothes=clothes, garment=garment,
    background=background, pattern=pattern, fingers=6 if flaw == "six fingers" else fingers,
    hand_side=hand_side, gesture=gesture, flaw=flaw, sentence="" if silent else spoken.name,
    start=0 if silent else start, frames=frames)


def _start(rng: np.random.Generator, spoken: Sentence, frames: int) -> int:
  """A start that leaves a quarter of the clip, at most, outside the sentence if that can be."""
  slack = frames // 4
  low, high = -slack, spoken.frames - frames + slack
  return int(rng.integers(min(low, high), max(low, high) + 1))


def caption(spec: ClipSpec) -> str:
  """One to three English sentences: who, clothes, background, fingers, gesture, and the flaw."""
  rng = np.random.default_rng((spec.seed, 7))
  told = {name: phrase for phrase, names in phrases(spec) for name in names}
  who, worn, wall, deed, held = (told[name] for name in (
      "hair", "clothes", "background", "talks", "fingers"))
  forms = (
    f"{who} wears {worn} in front of {wall}. It {deed}, {spec.gesture} and shows {held}.",
    f"{who}, dressed in {worn}, {deed} before {wall}. It {spec.gesture}, showing {held}.",
    f"In front of {wall}, {who[0].lower()}{who[1:]} in {worn} {deed}. "
    f"It shows {held} and {spec.gesture}.",
  )
  text = forms[rng.integers(len(forms))]
  return f"{text} {_FLAW_WORDS[spec.flaw]}" if spec.flaw else text


def phrases(spec: ClipSpec) -> tuple[tuple[str, tuple[str, ...]], ...]:
  """Phrases of the caption, and the names of what each tells."""
  identity = spec.identity
  who = "A cartoon puppet with " + _HAIR_WORDS[identity.hair_style].format(identity.hair)
  if identity.accessory:
    who += f" and {identity.accessory}"
  kind = "" if spec.pattern == "plain" else f"{spec.pattern} "
  return (
    (who, ("hair", "hair_style", "accessory")),
    (_with_article(f"{spec.clothes} {spec.garment}"), ("clothes", "garment")),
    (_with_article(f"{kind}{spec.background} wall"), ("background", "pattern")),
    ("talks" if spec.sentence else "is silent", ("talks",)),
    (f"{_NUMBERS[spec.fingers]} finger{'s' if spec.fingers > 1 else ''}", ("fingers",)),
    (spec.gesture, ("gesture",)),
    *(((_FLAW_WORDS[spec.flaw], ("flaw",)), (spec.flaw, ("flaw",))) if spec.flaw else ()),
  )


def _with_article(words: str) -> str:
  return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
