"""A small synthetic world of talking puppets whose truth is known.

`clip_spec(seed, index, split)` draws by lot what happens, `render_clip(spec)` shows it with its
sound, caption and truth, `write_mp4s` makes ordinary video files of it, and `readers` get the truth
back from pixels alone, also from pixels that a model made. docs/puppets.md describes the world.
"""

from emv3_jax.puppets.world.clips import ClipSpec, caption, clip_spec
from emv3_jax.puppets.world.identities import CROWD, HELD_OUT, TRAIN, Identity
from emv3_jax.puppets.world.mp4 import write_mp4s
from emv3_jax.puppets.world.render import Clip, Truth, render_clip
from emv3_jax.puppets.world.voice import level, mouth_curve

__all__ = ["CROWD", "HELD_OUT", "TRAIN", "Clip", "ClipSpec", "Identity", "Truth", "caption",
           "clip_spec", "level", "mouth_curve", "render_clip", "write_mp4s"]
