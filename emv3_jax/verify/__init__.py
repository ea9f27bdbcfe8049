"""The networks of a converted folder compared with PyTorch's, on the files that were converted.

`python -m emv3_jax.verify --checkpoint=DIR`; see docs/verify.md. Needs the extra `parity`.
"""
