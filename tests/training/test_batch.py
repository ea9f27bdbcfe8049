"""A batch is a tree of its fields, which may hold anything."""

import dataclasses

import jax
import numpy as np
import pytest

from emv3_jax.training.batch import Batch
from tests.training import tiny


def test_shapes_and_shardings_pass_through():
  batch = tiny.batch_of()
  shapes = jax.eval_shape(lambda batch: batch, batch)
  assert isinstance(shapes, Batch) and shapes.audio == jax.ShapeDtypeStruct(batch.audio.shape, np.float32)
  names = jax.tree.map(lambda _: "batch", batch)
  assert isinstance(names, Batch) and names.latents == "batch" and names.frame_mask is None


def test_leaves_are_named_by_their_fields():
  paths = [jax.tree_util.keystr(path) for path, _ in
           jax.tree_util.tree_leaves_with_path(tiny.batch_of())]
  assert paths[:2] == [".latents", ".mask"] and ".face_region" not in paths
  assert len(paths) == len(dataclasses.fields(Batch)) - 2


def test_a_batch_does_not_change_and_lacks_no_field():
  batch = tiny.batch_of()
  with pytest.raises(dataclasses.FrozenInstanceError):
    batch.text = None
  fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
  del fields["audio"]
  with pytest.raises(TypeError, match="audio"):
    Batch(**fields)
