"""Classes of a checkout, in place of which stand small ones of the same names."""


import pytest

from emv3_jax.errors import InputError
from emv3_jax.verify import foreign


def test_reference_is_imported_from_the_checkout(checkout):
  (checkout / "src/wan_vae.py").write_text("class AutoencoderKLWan: here = __file__\n")
  found = foreign.load(str(checkout), *foreign.VAE)
  assert found.here == str(checkout / "src/wan_vae.py")


@pytest.mark.parametrize("content, message", [
    (None, "there is no src/wan_vae.py; expected a checkout"),
    ("import no_such_package\n", "cannot import .*no_such_package.*install what that code needs"),
    ("raise OSError('no GPU')\n", r"cannot import .*OSError: no GPU"),
    ("", "cannot import AutoencoderKLWan from src.wan_vae"),
])
def test_reference_that_cannot_be_imported(checkout, content, message):
  if content is not None:
    (checkout / "src/wan_vae.py").write_text(content)
  with pytest.raises(InputError, match=message):
    foreign.load(str(checkout), *foreign.VAE)


def test_both_variants_transformers_are_looked_for(checkout):
  for variant, file in (("preview", "wan_transformer3d_audio.py"),
                        ("flash", "wan_transformer3d_audio_2512.py")):
    with pytest.raises(InputError, match=f"there is no src/{file}"):
      foreign.load(str(checkout), *foreign.RELEASED_CODE[variant].transformer)


class Sized:

  def __init__(self, dim):
    self.dim = dim + 0


def test_what_cannot_be_built_is_of_another_version():
  assert foreign.build(Sized, dim=3).dim == 3
  with pytest.raises(InputError, match="Sized does not take layers; .*another version"):
    foreign.build(Sized, layers=2)
  with pytest.raises(InputError, match="Sized cannot be built .TypeError.*another version"):
    foreign.build(Sized, dim="3")
