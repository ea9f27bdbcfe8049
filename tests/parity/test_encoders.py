"""The encoders live against transformers' own modules of tiny sizes with random weights."""

import jax
import numpy as np
import pytest
import torch
import transformers

from emv3_jax.models import clip, umt5, wav2vec2
from tests import golden_data
from tests.parity.pretrained import converted, randomized, to_numpy

pytestmark = pytest.mark.parity


def test_umt5(tmp_path, rng):
  theirs = randomized(transformers.UMT5EncoderModel(transformers.UMT5Config(
      vocab_size=300, d_model=64, d_kv=16, d_ff=96, num_layers=3, num_heads=4,
      feed_forward_proj="gated-gelu")))
  config, params = converted(theirs, tmp_path, "text_encoder")
  ids = rng.integers(0, 300, (2, 200))
  mask = np.arange(200) < np.array([[200], [33]])
  with torch.no_grad():
    want = to_numpy(theirs(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state)
  got = jax.jit(umt5.network(config).bind(params))(ids.astype(np.int32), mask)
  golden_data.check("umT5, live", np.asarray(got)[mask], want[mask], 1e-5)


def test_clip_vision(tmp_path, rng):
  vision = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
                image_size=56, patch_size=14, hidden_act="gelu")
  text = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
              num_attention_heads=2)
  theirs = randomized(transformers.CLIPModel(transformers.CLIPConfig(
      text_config=text, vision_config=vision)))
  config, params = converted(theirs, tmp_path, "image_encoder")
  assert config.num_layers == 2
  pixels = rng.standard_normal((2, 3, 56, 56), np.float32)
  with torch.no_grad():
    want = theirs.vision_model(torch.tensor(pixels), output_hidden_states=True).hidden_states[-2]
  got = jax.jit(clip.network(config).bind(params))(np.moveaxis(pixels, 1, -1))
  golden_data.check("CLIP, live", got, to_numpy(want), 1e-5)


def test_wav2vec2(tmp_path, rng):
  theirs = randomized(transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(
      hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
      conv_dim=(32,) * 7, num_conv_pos_embedding_groups=8)))
  config, params = converted(theirs, tmp_path, "audio_encoder")
  waveform = rng.standard_normal((2, 12000), np.float32)
  with torch.no_grad():
    states = theirs(torch.tensor(waveform), output_hidden_states=True).hidden_states
  want = torch.stack(states[1:], dim=2)
  got = jax.jit(lambda x: wav2vec2.network(config).bind(params)(x, layers="all"))(waveform)
  golden_data.check("wav2vec2, live", got, to_numpy(want), 1e-5)
