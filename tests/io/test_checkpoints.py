import errno
import json
import logging as std_logging
import resource
import shutil

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import ml_dtypes
import numpy as np
import pytest

from emv3_jax.errors import InputError
from emv3_jax.io import checkpoints, leaf_writing, model_card, stored_leaves
from emv3_jax.io.stored_leaves import StoredLeaf
from emv3_jax.models.network import named_leaves

CONFIG = {"dim": 16, "kernels": (3, 2)}


@pytest.fixture
def params(rng):
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  return {"token_embedding": {"embedding": normal(40, 16)},
          "blocks": {"ffn": {"kernel": normal(3, 16, 32), "bias": normal(3, 32)}},
          "norm": {"scale": normal(16)}}


def abstract(params, dtype=np.float32):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)


def save(folder, params, name="transformer", **options):
  checkpoints.save_component(folder, name, params, config=CONFIG, **options)


def assert_same(got, want):
  got, want = named_leaves(got), named_leaves(want)
  assert got.keys() == want.keys()
  for name, leaf in want.items():
    assert got[name].dtype == leaf.dtype, name
    np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(leaf), err_msg=name)


def test_a_component_does_not_tell_where_it_was_written(tmp_path, params):
  save(tmp_path / "m", params)
  files = [path for path in (tmp_path / "m").rglob("*") if path.is_file()]
  assert files and not any(bytes(tmp_path) in path.read_bytes() for path in files)


def test_a_saved_component_comes_back_with_its_card(tmp_path, params):
  source = {"file": "a.safetensors", "sha256": "0" * 64, "bytes": 7}
  save(tmp_path / "m", params, variant="preview", sources=[source])
  save(tmp_path / "m", params, name="vae")
  card = checkpoints.read_model_card(tmp_path / "m")
  assert card.variant == "preview" and set(card.components) == {"transformer", "vae"}
  component = card.require("transformer", "preview")
  assert component.config == CONFIG and component.dtype == "float32"
  assert component.sources == (source,)
  hash(component.config["kernels"])
  assert_same(checkpoints.load_component(tmp_path / "m", "transformer", abstract(params)), params)
  content = json.loads((tmp_path / "m" / "model.json").read_text())
  assert content["schema"] == 2 and content["components"]["vae"]["dtype"] == "float32"
  assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "transformer",
                                                                      "vae"]


def test_how_a_model_wants_to_be_sampled_stays_with_its_transformer(tmp_path, params):
  wishes = model_card.SamplingCard({"allocation": "phased"}, {"steps": 10}, {})
  save(tmp_path, params, variant="preview", model_name="mine", sampling=wishes)
  save(tmp_path, params, name="vae")
  card = checkpoints.read_model_card(tmp_path)
  assert (card.name, card.sampling) == ("mine", wishes)
  save(tmp_path, params, variant="preview", model_name="another")
  card = checkpoints.read_model_card(tmp_path)
  assert (card.name, card.sampling) == ("another", None)


def test_a_folder_of_schema_1_is_read(tmp_path, params):
  save(tmp_path, params, variant="preview")
  path = tmp_path / "model.json"
  content = json.loads(path.read_text())
  del content["components"]["transformer"]["digest"]
  path.write_text(json.dumps({"schema": 1, "variant": content["variant"],
                              "components": content["components"]}))
  card = checkpoints.read_model_card(tmp_path)
  assert card.sampling is None and card.require("transformer", "preview").digest == ""


def test_lazy_and_device_arrays_are_the_same_bits(tmp_path, params):
  lazy = jax.tree.map(lambda leaf: checkpoints.LazyArray(leaf.shape, leaf.dtype, lambda: leaf),
                      params)
  save(tmp_path, lazy, name="vae")
  assert_same(checkpoints.load_component(tmp_path, "vae", abstract(params)), params)
  save(tmp_path, jax.tree.map(jnp.asarray, params), name="vae")
  assert_same(checkpoints.load_component(tmp_path, "vae", abstract(params)), params)


def test_dtypes_are_cast_when_asked(tmp_path, params):
  save(tmp_path, params, dtype="bfloat16")
  assert checkpoints.read_model_card(tmp_path).components["transformer"].dtype == "bfloat16"
  rounded = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), params)
  assert_same(checkpoints.load_component(tmp_path, "transformer",
                                         abstract(params, jnp.bfloat16)), rounded)
  widened = jax.tree.map(lambda leaf: leaf.astype(np.float32), rounded)
  assert_same(checkpoints.load_component(tmp_path, "transformer", abstract(params)), widened)
  assert_same(checkpoints.load_component(tmp_path, "transformer", abstract(params),
                                         dtype=jnp.bfloat16), rounded)


def test_leaves_larger_than_a_batch_are_written_and_read_alone(tmp_path, params, monkeypatch):
  monkeypatch.setattr(leaf_writing, "BATCH_BYTES", 200)
  monkeypatch.setattr(stored_leaves, "PIECE_BYTES", 200)
  save(tmp_path, params | {"scalar": np.array(3, np.float32)})
  params["scalar"] = np.array(3, np.float32)
  for shardings in (None, jax.sharding.SingleDeviceSharding(jax.devices()[1])):
    for dtype in (jnp.float32, jnp.bfloat16):
      loaded = checkpoints.load_component(tmp_path, "transformer", abstract(params), dtype=dtype,
                                          shardings=shardings)
      assert_same(loaded, jax.tree.map(lambda leaf, to=dtype: leaf.astype(to), params))
      assert loaded["scalar"].devices() == {jax.devices()[shardings is not None]}


def test_shards_are_read_where_they_belong(tmp_path, params):
  save(tmp_path, params)
  mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
  shardings = jax.tree.map(lambda leaf: NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), "x")),
                           params)
  loaded = checkpoints.load_component(tmp_path, "transformer", abstract(params),
                                      shardings=shardings)
  kernel = loaded["blocks"]["ffn"]["kernel"]
  assert kernel.sharding.spec == P(None, None, "x")
  assert kernel.addressable_shards[0].data.shape == (3, 16, 8)
  assert_same(loaded, params)
  save(tmp_path / "again", loaded)
  assert_same(checkpoints.load_component(tmp_path / "again", "transformer", abstract(params)),
              params)
  first, again = (checkpoints.read_model_card(path).components["transformer"].digest
                  for path in (tmp_path, tmp_path / "again"))
  assert first == again


def test_a_stream_reads_layers_parts_and_rows(tmp_path, params):
  save(tmp_path, params, name="text_encoder")
  stream = checkpoints.stream_component(tmp_path, "text_encoder", abstract(params))
  assert stream.num_layers == 3
  for layer in (0, 1, 2, 1):
    assert_same(stream.layer(layer), jax.tree.map(lambda x, i=layer: x[i], params["blocks"]))
  assert_same(stream.part("norm"), params["norm"])
  table, ids = params["token_embedding"]["embedding"], np.array([[5, 39], [0, 5]])
  np.testing.assert_array_equal(stream.rows("token_embedding")["embedding"][ids], table[ids])
  half = checkpoints.stream_component(tmp_path, "text_encoder", abstract(params, jnp.bfloat16))
  assert half.layer(0)["ffn"]["kernel"].dtype == jnp.bfloat16


def test_a_layer_is_stored_apart_from_its_neighbours(tmp_path, params):
  save(tmp_path, params)
  store = StoredLeaf(tmp_path / "transformer", "blocks.ffn.kernel")._store
  assert store.chunk_layout.read_chunk.shape == (1, 16, 32)


def test_replacing_keeps_the_old_component_until_the_new_one_is_whole(tmp_path, params):
  save(tmp_path, params, variant="base")

  def fail():
    raise InputError("the source is damaged")

  broken = {"a": params["norm"]["scale"],
            "b": checkpoints.LazyArray((1 << 27,), np.dtype(np.float32), fail)}
  with pytest.raises(InputError, match="damaged"):
    save(tmp_path, broken, variant="preview")
  assert checkpoints.read_model_card(tmp_path).variant == "base"
  assert_same(checkpoints.load_component(tmp_path, "transformer", abstract(params)), params)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "transformer"]
  doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
  save(tmp_path, doubled, variant="preview")
  assert checkpoints.read_model_card(tmp_path).variant == "preview"
  assert_same(checkpoints.load_component(tmp_path, "transformer", abstract(params)), doubled)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "transformer"]


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path, params):
  (tmp_path / "vae").mkdir()
  (tmp_path / "vae" / "weights.safetensors").write_text("precious")
  with pytest.raises(InputError, match="vae exists and is not a converted component"):
    save(tmp_path, params, name="vae")
  assert (tmp_path / "vae" / "weights.safetensors").read_text() == "precious"


def test_what_a_killed_run_left_is_cleared_away(tmp_path, params):
  save(tmp_path, params)
  for left in ("transformer.unfinished.partial_save", "transformer.superseded"):
    (tmp_path / left).mkdir()
    (tmp_path / left / "of a killed run").touch()
  save(tmp_path, params)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "transformer"]


def test_a_full_disk_is_an_input_error_and_leaves_nothing(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # writes beyond 1 MiB fail
  try:
    with pytest.raises(InputError, match="could not be written"):
      save(tmp_path / "m", {"kernel": np.ones((1 << 20,), np.float32)})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert list((tmp_path / "m").iterdir()) == []


def test_a_folder_to_which_something_is_still_written_goes(tmp_path, monkeypatch):
  """As Orbax's threads do after one of them found the disk full."""
  (tmp_path / "m" / "d").mkdir(parents=True)
  remove, late = shutil.rmtree, [1, 2]

  def raced(path):
    if late:
      late.pop()
      raise OSError(errno.ENOTEMPTY, "Directory not empty", "d")
    remove(path)

  monkeypatch.setattr(shutil, "rmtree", raced)
  checkpoints._remove(tmp_path / "m", tmp_path / "never")
  assert not (tmp_path / "m").exists() and not late


def test_an_unwritable_folder_is_an_input_error(tmp_path, params):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="could not be written"):
    save(tmp_path / "file" / "m", params)


@pytest.mark.parametrize("content, message", [
    (None, "has no model.json"), ("{", "cannot be read"), ("[]", "cannot be read"),
    ("{}", "cannot be read"), ('{"schema": 1}', "cannot be read"),
    ('{"schema": 1, "components": {"vae": {"size": 3}}}', "cannot be read"),
    ('{"schema": 99, "components": {}}', "schema version 99, this program reads 1"),
])
def test_cards_that_cannot_be_used_are_named(tmp_path, content, message):
  if content is not None:
    (tmp_path / "model.json").write_text(content)
  with pytest.raises(InputError, match=message) as error:
    checkpoints.read_model_card(tmp_path)
  assert len(str(error.value).splitlines()) <= 2


def test_missing_folder_component_and_variant_are_named(tmp_path, params):
  with pytest.raises(InputError, match="nowhere does not exist"):
    checkpoints.read_model_card(tmp_path / "nowhere")
  save(tmp_path, params, variant="preview")
  with pytest.raises(InputError, match="no component vae; present: transformer"):
    checkpoints.load_component(tmp_path, "vae", abstract(params))
  with pytest.raises(InputError, match="holds the variant preview, wanted flash"):
    checkpoints.load_component(tmp_path, "transformer", abstract(params), variant="flash")


def test_a_component_that_does_not_fit_names_what_differs(tmp_path, params):
  save(tmp_path, params)
  other = abstract(params)
  other["audio"] = {"scale": other["norm"].pop("scale")}
  other["blocks"]["ffn"]["bias"] = jax.ShapeDtypeStruct((3, 64), np.float32)
  with pytest.raises(InputError, match=r"missing audio.scale; unexpected norm.scale; "
                                       r"blocks.ffn.bias is \(3, 32\), wanted \(3, 64\)"):
    checkpoints.load_component(tmp_path, "transformer", other)


@pytest.mark.parametrize("damage", ["delete", "truncate", "delete_all"])
def test_a_half_written_component_is_recognised(tmp_path, params, damage):
  save(tmp_path, params)
  component = tmp_path / "transformer"
  victim = max((path for path in component.rglob("*") if path.is_file()),
               key=lambda path: path.stat().st_size)
  if damage == "delete":
    victim.unlink()
  elif damage == "truncate":
    victim.write_bytes(victim.read_bytes()[:-100])
  else:
    shutil.rmtree(component)
  with pytest.raises(InputError, match="transformer is not whole: found .* were written"):
    checkpoints.load_component(tmp_path, "transformer", abstract(params))


def test_a_component_of_the_right_size_with_wrong_bytes_is_an_input_error(tmp_path, params):
  save(tmp_path, params)
  for path in (tmp_path / "transformer" / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"\0" * path.stat().st_size)
  with pytest.raises(InputError, match="cannot be read"):
    checkpoints.load_component(tmp_path, "transformer", abstract(params))


def test_the_tokenizer_is_copied(tmp_path):
  (tmp_path / "t.json").write_text("{}")
  checkpoints.write_tokenizer(tmp_path / "m", tmp_path / "t.json")
  assert (tmp_path / "m" / "tokenizer" / "tokenizer.json").read_text() == "{}"
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError):
    checkpoints.write_tokenizer(tmp_path / "file", tmp_path / "t.json")


def test_a_damaged_component_is_told_in_two_lines(tmp_path, params, caplog):
  save(tmp_path, params, variant="preview")
  for path in (tmp_path / "transformer/state").rglob("*"):
    if path.is_file() and path.stat().st_size > 300:  # lists of arrays and arrays
      path.write_bytes(path.read_bytes()[:200] + b"damaged" + path.read_bytes()[207:])
  with caplog.at_level(logging.WARNING), pytest.raises(InputError) as caught:
    checkpoints.load_component(tmp_path, "transformer", abstract(params))
  assert "cannot be read" in str(caught.value) and len(str(caught.value).splitlines()) == 2
  assert not [record for record in caplog.records if record.levelno >= std_logging.WARNING]
