"""Digests of weights: the same for the same leaves, however they are kept; kept, taken over, verified."""

import json
import os
import pathlib
import shutil

from absl import logging
import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import ml_dtypes
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io import (
  checkpoints,
  component_links,
  digests,
  leaf_writing,
  model_card,
  stored_leaves,
)

ASSETS = pathlib.Path(checkpoints.__file__).parents[1] / "assets/tiny/model"
PINNED = "1f670ab6a6efee4afbebdf2ebeb5a74470274b4e8632dfa5d8c6f40afb3b8fe9"  # of `params`


@pytest.fixture
def params():
  count = lambda *shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  return {"token_embedding": {"embedding": count(40, 16)},
          "blocks": {"ffn": {"kernel": count(3, 16, 32).astype(ml_dtypes.bfloat16)}},
          "norm": {"scale": count(16)}, "step": np.array(3, np.float32)}


@pytest.fixture
def said(monkeypatch):
  """What is logged of digests; Orbax logs too."""
  lines = []
  def keep(text, *values):
    if "digest" in text:
      lines.append(text % values)
  for level in ("info", "warning"):
    monkeypatch.setattr(logging, level, keep)
  return lines


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setattr(digests, "CACHE", tmp_path / "cache")
  monkeypatch.setattr(digests, "_computed", {})
  return tmp_path / "cache"


def save(folder, params, name="transformer"):
  checkpoints.save_component(folder, name, params, config={"dim": 16}, variant="preview")


def recorded(folder, name="transformer"):
  return checkpoints.read_model_card(folder).components[name].digest


def without_digests(folder):
  """As version 0.1 wrote it."""
  content = json.loads((folder / "model.json").read_text())
  for card in content["components"].values():
    del card["digest"]
  (folder / "model.json").write_text(json.dumps(
      {"schema": 1, "variant": content["variant"], "components": content["components"]}))


def test_a_written_component_has_the_digest_of_its_leaves(tmp_path, params, monkeypatch):
  save(tmp_path / "a", params)
  assert recorded(tmp_path / "a") == digests.params_digest(params) == PINNED
  monkeypatch.setattr(stored_leaves, "PIECE_BYTES", 200)
  monkeypatch.setattr(leaf_writing, "BATCH_BYTES", 200)
  monkeypatch.setattr(leaf_writing, "CHUNK_BYTES", 256)
  backwards = dict(reversed(params.items()))
  save(tmp_path / "b", backwards)
  assert recorded(tmp_path / "b") == digests.params_digest(backwards) == PINNED


def test_a_mesh_changes_nothing(params):
  mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
  place = lambda leaf: jax.device_put(leaf, NamedSharding(mesh, P(*[None, "x"][2 - leaf.ndim:])
                                                          if leaf.ndim == 2 else P()))
  assert digests.params_digest(jax.tree.map(place, params)) == PINNED


@pytest.mark.parametrize("change", ["value", "sign", "dtype", "shape", "name", "missing", "swap"])
def test_every_leaf_counts(params, change):
  scale, before = params["norm"]["scale"], digests.params_digest(params)
  if change == "value":
    scale[3] = np.nextafter(scale[3], 9, dtype=np.float32)
  elif change == "sign":
    scale[0] = -0.0
  elif change == "dtype":
    params["norm"]["scale"] = scale.view(np.int32)
  elif change == "shape":
    params["norm"]["scale"] = scale.reshape(4, 4)
  elif change == "name":
    params["norms"] = params.pop("norm")
  elif change == "missing":
    del params["step"]
  else:
    embedding = params["token_embedding"]["embedding"]
    params["token_embedding"]["embedding"] = embedding.reshape(16, 40).T
  assert digests.params_digest(params) != before == PINNED


def test_a_linked_component_keeps_its_digest_and_one_of_version_0_1_gets_it(tmp_path, params):
  save(tmp_path / "a", params, "vae")
  component_links.link_component(tmp_path / "b", "vae", tmp_path / "a")
  assert recorded(tmp_path / "b", "vae") == PINNED
  without_digests(tmp_path / "a")
  component_links.link_component(tmp_path / "c", "vae", tmp_path / "a")
  assert recorded(tmp_path / "c", "vae") == PINNED


def test_a_folder_of_version_0_1_is_read_once(tmp_path, params, said, monkeypatch):
  save(tmp_path / "m", params)
  without_digests(tmp_path / "m")
  card = checkpoints.read_model_card(tmp_path / "m")
  del said[:]
  assert digests.weights_digest(card, "transformer") == PINNED
  [line] = said
  assert "transformer has no digest of its weights, as version 0.1 wrote it" in line
  reads = []
  monkeypatch.setattr(digests, "component_digest", reads.append)
  for _ in range(2):
    assert digests.weights_digest(card, "transformer") == PINNED
    digests._computed.clear()  # as in another process
  assert not reads and len(said) == 1
  monkeypatch.undo()


def test_what_is_kept_of_a_folder_goes_with_its_files(tmp_path, params, cache):
  save(tmp_path / "m", params)
  without_digests(tmp_path / "m")
  card = checkpoints.read_model_card(tmp_path / "m")
  digests.weights_digest(card, "transformer")
  save(tmp_path / "m", {**params, "step": np.array(4, np.float32)})
  without_digests(tmp_path / "m")
  assert digests.weights_digest(checkpoints.read_model_card(tmp_path / "m"),
                                "transformer") != PINNED
  for kept in cache.iterdir():
    kept.write_text("[damaged")
  digests._computed.clear()
  save(tmp_path / "m", params)
  without_digests(tmp_path / "m")
  for _ in range(2):
    found = digests.weights_digest(checkpoints.read_model_card(tmp_path / "m"), "transformer")
    assert found == PINNED


def test_files_of_a_component_are_known_by_name_size_and_time(tmp_path):
  keys = [digests._key(tmp_path)]
  for name, content, time in (("a", "one", 1), ("a", "one", 2), ("a", "three", 2), ("b", "", 2)):
    (tmp_path / name).write_text(content)
    os.utime(tmp_path / name, ns=(time, time))
    keys.append(digests._key(tmp_path))
  assert len(set(keys)) == 5 and digests._key(tmp_path) == keys[-1]


def test_without_a_home_folder_digests_are_computed_each_time(tmp_path, params, said, monkeypatch):
  save(tmp_path / "m", params)
  without_digests(tmp_path / "m")
  monkeypatch.setattr(digests, "CACHE", pathlib.Path("~/cache"))
  monkeypatch.delenv("HOME")
  monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
  card = checkpoints.read_model_card(tmp_path / "m")
  assert digests.weights_digest(card, "transformer") == PINNED and "set HOME" in said[-1]


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(InputError, match="pipe cannot be read: it is not a regular file"):
    digests.file_digest(tmp_path / "pipe")


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, params, said, cache, monkeypatch):
  save(tmp_path / "m", params)
  without_digests(tmp_path / "m")
  cache.write_text("in the way")
  del said[:]
  card = checkpoints.read_model_card(tmp_path / "m")
  assert digests.weights_digest(card, "transformer") == PINNED
  assert len(said) == 2 and "is not kept for the next run" in said[1]
  assert digests.weights_digest(card, "transformer") == PINNED
  assert len(said) == 2  # known in this process


def test_verified_weights(tmp_path, params, said):
  save(tmp_path, params)
  save(tmp_path, {"kernel": params["norm"]["scale"]}, "vae")
  found = digests.verify_digests(tmp_path)
  assert found["transformer"] == PINNED and found.keys() == {"transformer", "vae"}
  without_digests(tmp_path)
  assert digests.verify_digests(tmp_path) == found
  assert "no digest is recorded of transformer, vae" in said[-1]


def test_other_weights_in_files_of_the_same_size_are_found(tmp_path, params):
  save(tmp_path, params)
  save(tmp_path, {"kernel": np.zeros(16, np.float32)}, "vae")
  save(tmp_path / "other", {"kernel": np.ones(16, np.float32)}, "vae")
  shutil.rmtree(tmp_path / "vae")
  (tmp_path / "other/vae").rename(tmp_path / "vae")
  card = checkpoints.read_model_card(tmp_path)
  size = dict(zip(("files", "bytes"), model_card.measure(tmp_path / "vae"), strict=True))
  content = json.loads((tmp_path / "model.json").read_text())
  content["components"]["vae"] |= size
  (tmp_path / "model.json").write_text(json.dumps(content))
  assert digests.weights_digest(card, "transformer") == PINNED
  with pytest.raises(InputError, match=r"vae: the weights are not those .*recorded [0-9a-f]{12}"):
    digests.verify_digests(tmp_path)


def test_a_folder_that_is_being_written_is_refused(tmp_path, params):
  (tmp_path / "transformer.unfinished.partial_save").mkdir()
  with pytest.raises(InputError, match=r"has no model.json: .* was not written to the end"):
    digests.verify_digests(tmp_path)
  (tmp_path / "transformer.unfinished.partial_save").rmdir()
  save(tmp_path, params)
  (tmp_path / "vae.unfinished").mkdir()
  with pytest.raises(InputError, match="vae is being written, or its writing was cut off"):
    digests.verify_digests(tmp_path)
  with pytest.raises(InputError, match="vae is being written"):
    checkpoints.read_model_card(tmp_path).require("vae")
  (tmp_path / "vae.unfinished").rmdir()
  next(path for path in (tmp_path / "transformer/state").rglob("*") if path.is_file()).unlink()
  with pytest.raises(InputError, match="transformer is not whole"):
    digests.verify_digests(tmp_path)


def test_the_weights_of_the_package_have_their_digests():
  found = digests.verify_digests(ASSETS)
  recorded = checkpoints.read_model_card(ASSETS).components
  assert found == {name: card.digest for name, card in recorded.items()} and len(found) == 5


def test_files(tmp_path):
  (tmp_path / "f").write_text("one")
  os.utime(tmp_path / "f", ns=(1, 1))
  one = digests.file_digest(tmp_path / "f")
  assert one == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
  (tmp_path / "f").write_text("two")
  assert digests.file_digest(str(tmp_path / "f")) != one
  for path in (tmp_path, tmp_path / "absent"):
    with pytest.raises(InputError, match=f"{path} cannot be read"):
      digests.file_digest(path)


def test_untrained_parameters_are_known_by_architecture_seed_and_component():
  found = {digests.untrained_digest(config, seed, name) for config in ("a", "b")
           for seed in (1, 2) for name in ("vae", "transformer")}
  assert len(found) == 8
