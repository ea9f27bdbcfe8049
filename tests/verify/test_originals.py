"""Files are found again by what is in them; folders and files that do not fit are named."""

import json
import pathlib
import shutil

import pytest

import emv3_jax
from emv3_jax.errors import InputError
from emv3_jax.io.model_card import CARD
from emv3_jax.verify import originals
from tests.verify import small_model

PARTS = ["text_encoder"]


def find(model, *places):
  card = originals.read_folder(model, PARTS)
  return originals.find_originals(card, PARTS, [str(place) for place in places])


def edit_card(model, change) -> None:
  card = json.loads((model / CARD).read_text())
  change(card)
  (model / CARD).write_text(json.dumps(card))


def test_a_file_is_found_under_another_name(own_text_model, tmp_path):
  model, sources = own_text_model
  (file,) = sources.rglob("*.safetensors")
  (tmp_path / "elsewhere").mkdir()
  file.rename(tmp_path / "elsewhere/renamed.safetensors")
  found = find(model, sources, tmp_path / "elsewhere")["text_encoder"]
  assert found.plan.checkpoint.files == (tmp_path / "elsewhere/renamed.safetensors",)
  assert found.config == small_model.CONFIGS["text_encoder"]
  assert found.files[0]["file"] == file.name and len(found.files[0]["sha256"]) == 64
  assert {str(dtype) for dtype in found.stored.values()} == {"bfloat16"}


def test_of_two_files_of_one_size_the_right_one_is_taken(own_text_model):
  model, sources = own_text_model
  (file,) = sources.rglob("*.safetensors")
  other = bytearray(file.read_bytes())
  other[-1] ^= 1
  (sources / "a.safetensors").write_bytes(other)
  assert find(model, sources)["text_encoder"].plan.checkpoint.files == (file,)


def test_the_hugging_face_cache_is_searched(own_text_model, tmp_path, monkeypatch):
  from huggingface_hub import constants
  model, sources = own_text_model
  (file,) = sources.rglob("*.safetensors")
  snapshot = tmp_path / "hub/models--owner--name/snapshots/1234"
  snapshot.mkdir(parents=True)
  (snapshot / file.name).symlink_to(file)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  assert find(model)["text_encoder"].plan.checkpoint.files == (snapshot / file.name,)
  file.rename(sources / "moved")  # the cache's link dangles
  with pytest.raises(InputError, match="not in the Hugging Face cache .*hub"):
    find(model)


@pytest.mark.parametrize("change, message", [
    (lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"not the file that was converted .*sha256 "),
    (lambda data: data + b" ", r"not the file that was converted .*\(251817 bytes\)"),
])
def test_a_file_that_changed_is_named(own_text_model, change, message):
  model, sources = own_text_model
  (file,) = sources.rglob("*.safetensors")
  file.write_bytes(change(file.read_bytes()))
  with pytest.raises(InputError, match=f"^models_t5.safetensors is {message}"):
    find(model, sources)


def test_places_without_the_file_are_named(text_model, tmp_path):
  model, _ = text_model
  with pytest.raises(InputError, match="models_t5.safetensors .* is not in .*\n.*--sources=DIR"):
    find(model, tmp_path)
  with pytest.raises(InputError, match="--sources=.*nowhere does not exist"):
    find(model, tmp_path / "nowhere")


def test_folders_that_cannot_be_verified(own_text_model, tmp_path):
  model, _ = own_text_model
  with pytest.raises(InputError, match="does not exist"):
    originals.read_folder(tmp_path / "none", PARTS)
  with pytest.raises(InputError, match="has no model.json"):
    originals.read_folder(tmp_path, PARTS)
  with pytest.raises(InputError, match="has no component vae"):
    originals.read_folder(model, ["vae"])
  half = shutil.copytree(model, tmp_path / "half")
  next((half / "text_encoder").rglob("ocdbt*/d/*")).unlink()
  with pytest.raises(InputError, match="is not whole"):
    originals.read_folder(half, PARTS)
  (model / "text_encoder.unfinished").mkdir()
  with pytest.raises(InputError, match="is being written, .*text_encoder.unfinished"):
    originals.read_folder(model, PARTS)


def test_an_export_of_training_has_nothing_to_compare_with(own_text_model):
  model, _ = own_text_model
  edit_card(model, lambda card: card["components"]["text_encoder"].update(sources=[]))
  with pytest.raises(InputError, match="its text_encoder was not converted from files"):
    originals.read_folder(model, PARTS)


def test_the_embedded_default_was_trained_here():
  folder = pathlib.Path(emv3_jax.__file__).parent / "assets/tiny/model"
  with pytest.raises(InputError, match="its text_encoder was not converted from files"):
    originals.read_folder(folder, PARTS)


def test_the_base_model_is_refused(own_text_model):
  model, _ = own_text_model
  edit_card(model, lambda card: card.update(variant="base"))
  assert originals.read_folder(model, PARTS).variant == "base"
  with pytest.raises(InputError, match="variant base.*no audio"):
    originals.read_folder(model, [*PARTS, "transformer"])
