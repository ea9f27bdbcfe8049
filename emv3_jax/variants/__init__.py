"""The audio variants: `variants.of("flash")` returns the object that describes one; `variants.register`
adds another."""

from emv3_jax.variants.table import names, of, register, unregister
from emv3_jax.variants.variant import Variant

__all__ = ["Variant", "names", "of", "register", "unregister"]
