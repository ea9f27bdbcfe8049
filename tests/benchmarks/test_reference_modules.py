"""The released code's modules, in place of which stand small ones of the same names and calls."""

import sys

import pytest

from benchmarks import cases, reference_modules
from emv3_jax.errors import InputError

TRANSFORMER = """
import torch

class WanTransformerAudioMask3DModel(torch.nn.Module):

  def __init__(self, model_type, patch_size, text_len, in_dim, dim, ffn_dim, freq_dim, text_dim,
               out_dim, num_heads, num_layers, qk_norm, cross_attn_norm, eps):
    super().__init__()
    self.sizes = model_type, in_dim, dim, num_layers

  def forward(self, x, t, context, seq_len, y, clip_fea):
    assert not torch.is_grad_enabled() and not self.training
    text, audio, frames, mask, gain = context
    calls.append((self.sizes, *(tuple(z.shape) for z in (x, y, t, text[0], audio, mask, clip_fea)),
                  frames, gain, seq_len))

calls = []
"""

VAE = """
import torch

class AutoencoderKLWan(torch.nn.Module):

  def __init__(self, latent_channels):
    super().__init__()

  def encode(self, x):
    calls.append(("encode", tuple(x.shape)))

  def decode(self, x):
    calls.append(("decode", tuple(x.shape)))

calls = []
"""


def test_transformer_is_called_as_the_released_pipeline_calls_it(checkout):
  pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
  (checkout / "src/wan_transformer3d_audio.py").write_text(TRANSFORMER)
  run, gflop = reference_modules.build(cases.find("transformer_audio", "full"), str(checkout))
  run()
  assert gflop is None
  assert sys.modules["src.wan_transformer3d_audio"].calls == [
      (("i2v", 36, 1536, 2), (1, 16, 16, 32, 32), (1, 20, 16, 32, 32), (1,), (512, 4096),
       (1, 122, 768), (1, 256), (1, 257, 1280), 16, 1.0, 4096)]


def test_vae_is_called_as_the_released_pipeline_calls_it(checkout):
  pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
  (checkout / "src/wan_vae.py").write_text(VAE)
  for direction in ("encode", "decode"):
    reference_modules.build(cases.find(f"vae_{direction}", "full"), str(checkout))[0]()
  assert sys.modules["src.wan_vae"].calls == [
      ("encode", (1, 3, 17, 128, 128)), ("decode", (1, 16, 5, 16, 16))]


def test_released_transformer_cannot_leave_audio_out(checkout):
  pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
  with pytest.raises(InputError, match="--cases=transformer_audio"):
    reference_modules.build(cases.find("transformer", "full"), str(checkout))


def test_released_transformer_has_one_size_of_pictures(checkout):
  pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
  with pytest.raises(InputError, match="1280 channels, not of 320; .*--size=full"):
    reference_modules.build(cases.find("transformer_audio", "small"), str(checkout))


@pytest.mark.parametrize("arguments, message", [
    ("latents", "AutoencoderKLWan does not take latent_channels; .*another version"),
    ("latent_channels, mean", "AutoencoderKLWan cannot be built .*mean.*another version"),
])
def test_checkout_of_another_version_is_named(checkout, arguments, message):
  pytest.importorskip("torch", reason="PyTorch is in the extra `parity` only")
  (checkout / "src/wan_vae.py").write_text(
      f"class AutoencoderKLWan:\n  def __init__(self, {arguments}):\n    pass\n")
  with pytest.raises(InputError, match=message):
    reference_modules.build(cases.find("vae_decode", "full"), str(checkout))
