"""Names, shapes and dtypes that the tables give are those of the released files."""

import pytest

from convert import released
from convert.plan import COMPONENTS
from tests.convert.released_names import checkpoint


@pytest.mark.parametrize("component,variant,file", [
    ("transformer", "preview", "preview_transformer"), ("transformer", "flash", "flash_transformer"),
    ("vae", None, "wan_vae"), ("text_encoder", None, "umt5_xxl_encoder"),
    ("image_encoder", None, "clip_xlm_roberta_vit_h_14"),
    ("audio_encoder", None, "wav2vec2_base_960h_checkpoint_ForCTC")])
def test_tensors(component, variant, file):
  got, want = released.tensors(component, variant), checkpoint(file)
  layout = COMPONENTS[component].layouts[0]
  prefix = next((p for p in layout.prefixes if any(name.startswith(p) for name in want)), "")
  assert {prefix + name for name in got} <= want.keys()
  for name, entry in got.items():
    assert entry == want[prefix + name], name
  unused = layout.unused_among({name.removeprefix(prefix) for name in want})
  assert {name.removeprefix(prefix) for name in want} - got.keys() <= unused.keys()
