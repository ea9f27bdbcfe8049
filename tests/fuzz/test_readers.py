"""JSON that nests without end, or is of another kind than expected, in whatever reads files of its own."""

import functools
import json
import pathlib
import random

import pytest

from emv3_jax.data import index as index_lib
from emv3_jax.data import records
from emv3_jax.errors import InputError
from emv3_jax.io import model_card
from emv3_jax.preparation import run, shards
from emv3_jax.training.monitor import metrics
from emv3_jax.variants.preview import PREVIEW
from tests.data import windows
from tests.fuzz.damage import other_header, spoilt

DEEP = "[" * 100_000


@pytest.mark.parametrize("name, read", [
    (index_lib.INDEX, index_lib.read_index), (model_card.CARD, model_card.read_model_card),
    (run.SETTINGS, lambda folder: run._open_folder(folder, {}, 1))])
def test_json_that_nests_without_end_is_refused(tmp_path, name, read):
  (tmp_path / name).write_text(DEEP)
  with pytest.raises(InputError, match=f"{name} cannot be read"):
    read(tmp_path)


@pytest.mark.parametrize("place, value", [
    (("variant",), {}), (("name",), 3), (("sampling", "recommended"), None), (("sampling", "precision"), 3.5),
    (("components", "vae", "config"), []), (("components", "vae", "files"), "3"), (("components",), [])])
def test_a_card_s_fields_are_of_their_types(tmp_path, place, value):
  card = {"schema": 2, "variant": "preview", "name": "x", "sampling": {},
          "components": {"vae": {"config": {}, "dtype": "float32"}}}
  (tmp_path / model_card.CARD).write_text(json.dumps(card))
  assert model_card.read_model_card(tmp_path).name == "x"
  *groups, last = place
  functools.reduce(dict.__getitem__, groups, card)[last] = value
  (tmp_path / model_card.CARD).write_text(json.dumps(card))
  with pytest.raises(InputError, match="cannot be read"):
    model_card.read_model_card(tmp_path)


def test_a_record_s_header_that_nests_without_end_is_refused():
  with pytest.raises(InputError, match="here is not a record"):
    records.decode(len(DEEP).to_bytes(8, "little") + DEEP.encode(), "here")


def test_a_damaged_record_is_read_or_refused():
  whole = [records.encode(windows.make_record(number, task=task), "float16", PREVIEW)
           for number, task in enumerate(("", "i2v"))]
  refused = 0
  for seed in range(300):
    rng = random.Random(seed)
    data = (spoilt, other_header)[seed % 2](rng.choice(whole), rng)
    try:
      records.decode(data, "here")
    except InputError as error:
      assert str(error).startswith("here")
      refused += 1
  assert 150 < refused < 300


def test_a_note_that_nests_without_end_has_its_shard_made_again(tmp_path):
  (tmp_path / run.SHARDS).mkdir()
  (tmp_path / run.SHARDS / "00000.json").write_text(DEEP)
  assert shards.read_note(tmp_path, 0, []) is None


def test_notes_of_others_are_left_alone(tmp_path):
  (tmp_path / run.SHARDS).mkdir()
  (tmp_path / run.SHARDS / "mine.json").write_text("{}")
  run._open_folder(tmp_path, {}, 1)
  assert (tmp_path / run.SHARDS / "mine.json").exists()


def test_damaged_lines_of_metrics_are_dropped(tmp_path):
  path: pathlib.Path = tmp_path / "metrics.jsonl"
  good = b'{"step": 3}\n'
  path.write_bytes(good + b"[]\n3\n{}\n\xff\xfe\nnull\n" + DEEP.encode() + b'\n{"step": "4"}\n')
  metrics.drop_after(path, 5)
  assert path.read_bytes() == good
