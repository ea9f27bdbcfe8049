"""What captions tell is seen where it is shown; chance is what another caption would reach."""

import dataclasses

from emv3_jax.puppets import world
from emv3_jax.puppets.judging import captions, flaws
from emv3_jax.puppets.world import palette
from emv3_jax.puppets.world.backdrop import PATTERNS
from tests.puppets.actors import clips, darker

NAMES = ("hair", "clothes", "background", "pattern", "identity")


def test_looks_of_the_caption_and_of_another():
  spec, frames = world.clip_spec(0, 0, "held_out", 3), darker(clips(17)[0].frames)
  own = captions.looks(frames, world.render_clip(spec).truth)
  assert {name: wanted == seen for name, (wanted, seen) in own.items()} == dict.fromkeys(NAMES, True)
  other = next(each for each in world.HELD_OUT if each.hair != spec.identity.hair)
  colour = lambda table, known: next(name for name in table if name != known)
  spec = dataclasses.replace(
      spec, identity=other, clothes=colour(palette.CLOTHES, spec.clothes),
      background=colour(palette.BACKGROUND, spec.background), pattern=colour(PATTERNS, spec.pattern))
  another = captions.looks(frames, world.render_clip(spec).truth)
  assert not any(wanted == seen for wanted, seen in another.values())


def test_deeds_of_the_caption_and_of_another():
  spec = dataclasses.replace(world.clip_spec(0, 0, "held_out", 33), fingers=3, gesture="nods")
  shown = world.render_clip(spec)
  other = world.render_clip(dataclasses.replace(spec, fingers=2, gesture="waves"))
  assert captions.deeds(flaws.read(shown.frames), shown.truth) == {
      "gesture": ("nods", "nods"), "fingers": (3, 3)}
  assert captions.deeds(flaws.read(shown.frames), other.truth) == {
      "gesture": ("waves", "nods"), "fingers": (2, 3)}


def test_share_and_chance():
  obeyed = [{"gesture": (name, name)} for name in ("nods", "nods", "waves", "stays calm")]
  assert captions.figures(obeyed) == {"gesture": 1.0, "gesture/chance": 2 / 12}
  calm = [{"gesture": (name, "stays calm")} for name in ("nods", "nods", "waves", "stays calm")]
  assert captions.figures(calm) == {"gesture": 0.25, "gesture/chance": 3 / 12}
