"""Training of the small default's parts on puppets: its VAE and its audio encoder.

The transformer is trained on what these two make of pictures and sound; docs/training.md tells how.
"""
