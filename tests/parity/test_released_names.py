"""Small networks in files of the released names, live against diffusers and transformers."""

import hashlib
import json

import pytest

from emv3_jax.io.model_card import CARD
from emv3_jax.verify.__main__ import main
from tests import golden_data
from tests.verify import small_model

pytestmark = pytest.mark.parity
SMALL = ("--frames=9", "--height=32", "--width=48")


def verified(capsys, model, sources, *arguments) -> tuple[int, dict]:
  """Exit code and JSON; errors go to the table at the end of the test session."""
  code = main([f"--checkpoint={model}", f"--sources={sources}", "--json", *SMALL, *arguments])
  found = json.loads(capsys.readouterr().out)
  for row in found["rows"]:
    golden_data.merge({}, {f"{row['module']}, live": [row["error"], row["tolerance"], 1]})
  return code, found


def test_preview(tmp_path, capsys):
  """All parts; the VAE is stored in bfloat16, and both sides are rounded to it."""
  names = ["preview", "vae", "text_encoder", "image_encoder", "audio_encoder"]
  small_model.write(tmp_path / "sources", names)
  for name in names:
    small_model.add(tmp_path / "model", tmp_path / "sources" / name, name,
                    "bfloat16" if name == "vae" else "keep")
  code, found = verified(capsys, tmp_path / "model", tmp_path / "sources")
  assert code == 0 and found["holds"] and found["variant"] == "preview"
  assert len(found["rows"]) == 8 and all(0 < row["error"] for row in found["rows"])
  assert {file["component"] for file in found["files"]} == {
      "transformer", "vae", "text_encoder", "image_encoder", "audio_encoder"}


def test_flash(tmp_path, capsys):
  model, sources = small_model.make(tmp_path, ["flash", "vae", "audio_encoder"])
  code, found = verified(capsys, model, sources, "--parts=audio_encoder,transformer,run")
  assert code == 0, found["rows"]
  assert len(found["rows"]) == 4 and all(row["error"] > 0 for row in found["rows"])


def test_a_network_that_is_not_the_files_fails(tmp_path, capsys):
  """The folder was made of other values: the card is made to say that it was of these."""
  model, _ = small_model.make(tmp_path, ["text_encoder"])
  small_model.write(tmp_path / "others", ["text_encoder"], seed=1)
  (file,) = (tmp_path / "others").rglob("*.safetensors")
  card = json.loads((model / CARD).read_text())
  (source,) = card["components"]["text_encoder"]["sources"]
  source["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
  (model / CARD).write_text(json.dumps(card))
  code = main([f"--checkpoint={model}", f"--sources={file}", "--parts=text_encoder"])
  assert code == 1
  assert "| umT5 | " in (out := capsys.readouterr().out) and "FAILS" in out
