"""What signatures say of arrays: `Float[AnyArray, "b s d"]` with the letters of docs/architecture.md.

jaxtyping checks them while tests run. `Float` is any floating point, bfloat16 too.
"""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray  # on a device or traced, or on the host
