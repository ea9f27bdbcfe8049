"""The audio variants: `variants.of("flash")` is the object that says all that differs; `variants.register`
adds another."""

from emv3_jax.variants.table import names, of, register, unregister
from emv3_jax.variants.variant import Variant

__all__ = ["Variant", "names", "of", "register", "unregister"]
