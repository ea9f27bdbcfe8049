"""The networks of a converted folder against PyTorch's, from the very files that were converted.

`python -m emv3_jax.verify --checkpoint=DIR`; see docs/verify.md. Needs the extra `parity`.
"""
