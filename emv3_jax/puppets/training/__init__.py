"""Training of the small default's parts on puppets: its VAE and its audio encoder.

`loop` runs the steps with checkpoints, metrics, preemption and Muon of `emv3_jax.training`; `vae` and
`audio` hold initialization and loss, `footage` and `speech` the batches. The transformer is trained
on what these two networks make of pictures and sound; docs/training.md says how.
"""
