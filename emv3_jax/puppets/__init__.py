"""A small synthetic world of talking puppets, and the training and judging of the small default on it.

`world` draws the puppets and reads them back, `training` trains the default's VAE and audio encoder
on them, `judging` measures what was trained. `python -m emv3_jax.puppets` writes puppets as MP4 files.
"""
