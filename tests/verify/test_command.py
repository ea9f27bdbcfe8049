"""The command line without PyTorch: what is wrong is said before any network is loaded."""

import sys

import pytest

from emv3_jax.errors import InputError
from emv3_jax.verify.__main__ import main


@pytest.mark.parametrize("arguments, message", [
    ([], "--checkpoint"),
    (["--checkpoint=none", "--parts=vea"], "unknown part 'vea'; known: text_encoder, .*, run"),
    (["--checkpoint=none", "--frames=6"], "--frames=6; wanted 4k"),
    (["--checkpoint=none", "--source=x"], "did you mean '--sources'"),
    (["--checkpoint=none", "--config.x=1"], "There is no config here"),
    (["--checkpoint=none"], "none does not exist"),
])
def test_mistakes_on_the_command_line(arguments, message):
  with pytest.raises(InputError, match=message):
    main(arguments)


@pytest.mark.parametrize("package", ["torch", "diffusers", "transformers"])
def test_a_missing_package_names_the_extra(text_model, monkeypatch, package):
  if package != "torch":
    pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
  if package == "transformers":
    pytest.importorskip("diffusers", reason="diffusers is in the extra `parity` only")
  for name in ("checkout", "libraries", "theirs", "modules", "weights"):
    monkeypatch.delitem(sys.modules, f"emv3_jax.verify.{name}", raising=False)
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(InputError, match=rf"needs the package {package},.*\[parity\]"):
    main([f"--checkpoint={text_model[0]}", "--parts=text_encoder"])
