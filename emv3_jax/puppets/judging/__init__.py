"""Judgement of the small default: gates of its parts, and clips read back against what was asked.

`gates` measures the trained VAE and audio encoder; `samples` makes clips with the whole model,
`judge`, `captions`, `flaws` and `lip_sync` measure them with the readers of the world.
"""
