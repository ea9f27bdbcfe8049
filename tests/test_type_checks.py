"""Shapes that signatures state are checked while tests run, and only they."""

import dataclasses

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from emv3_jax.io.pixels import enlarged
from emv3_jax.models import norms
from emv3_jax.training.batch import Batch

pytestmark = pytest.mark.skipif(not hasattr(norms.standardize, "__wrapped__"),
                                reason="runs without --jaxtyping-packages")


def test_shapes_are_checked():
  x, shift = jnp.zeros((2, 3, 4)), jnp.zeros((2, 1, 4))
  norms.modulated_norm(x, shift, shift, 1e-6)
  with pytest.raises(jaxtyping.TypeCheckError, match="scale"):
    norms.modulated_norm(x, shift, jnp.zeros((2, 3, 4)), 1e-6)


def test_dtypes_are_checked():
  with pytest.raises(jaxtyping.TypeCheckError, match="frames"):
    enlarged(np.zeros((1, 8, 8, 3), np.float32), 2)


def test_dataclasses_are_checked():
  names = [field.name for field in dataclasses.fields(Batch) if field.default is dataclasses.MISSING]
  with pytest.raises(jaxtyping.TypeCheckError):
    Batch(**{name: np.zeros((2, 3), np.float32) for name in names})
