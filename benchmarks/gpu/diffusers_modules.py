"""The same work by diffusers' PyTorch modules in bfloat16, with the attention that is fastest there."""

from collections.abc import Callable, Iterator
import time

import diffusers
from diffusers.models import attention_dispatch
import torch

from benchmarks import pytorch
from benchmarks.gpu import measure
from benchmarks.gpu.measure import KeepOn, Result
from emv3_jax.models.transformer import TransformerConfig
from emv3_jax.models.vae import VAEConfig
from emv3_jax.plan import programs
from emv3_jax.plan.programs import Window
from emv3_jax.sampling.settings import Config
from emv3_jax.verify import libraries

DEVICES = {"gpu": "cuda", "cpu": "cpu"}
# Those that are exact; the first two need the packages flash_attn_interface and flash_attn.
ATTENTION = ("_flash_3", "flash", "_native_cudnn", "_native_flash", "_native_efficient", "native")


def sample_step(config: Config, window: Window, keep_on: KeepOn, platform: str, *, compiled: bool) -> Iterator[Result]:
  """One forward pass of `WanTransformer3DModel` for all guidance branches, their mix and one Euler step.

  There is no audio: the module has none. Text and image are projected in each step, ours once a clip.

  Args:
    config: of sampling; the guidance branches are its.
    window: size of the clip.
    keep_on: as of `measure.runs`.
    platform: gpu or cpu.
    compiled: whether the layers are compiled by `torch.compile`, one program for all, as diffusers' documentation
      advises; else eager.

  Yields:
    What is known so far, after each run but the first.
  """
  net, rows, device = config.model.transformer, programs.num_rows(config), DEVICES[platform]
  model = _in_bfloat16(lambda: libraries.wan_transformer(net), device).eval()
  inputs = transformer_inputs(net, rows, window, device)
  tflop = transformer_tflop(net, rows, window)
  backend = fastest_attention(model, net, window, device)
  model.set_attention_backend(backend)
  if compiled:
    model.compile_repeated_blocks()

  def run():
    with torch.inference_mode():
      latents = inputs[0]
      velocity = model(*inputs, return_dict=False)[0]
      guided = velocity[:1] + 4.0 * (velocity[1:2] - velocity[:1]) + 2.9 * (velocity[-1:] - velocity[1:2])
      return _finished(latents[:1, :net.out_channels] - 0.04 * guided)

  yield from _timed(run, keep_on, tflop, device, {"attention": backend, "compiled": compiled})


def vae(config: VAEConfig, direction: str, window: Window, keep_on: KeepOn, platform: str
        ) -> Iterator[Result]:
  """One clip through `AutoencoderKLWan`, `decode` or `encode`; arguments and results as of `sample_step`."""
  device = DEVICES[platform]
  torch.backends.cudnn.benchmark = True
  module = libraries.wan_vae(config).to(device, torch.bfloat16).eval()
  x = vae_input(config, direction, window).to(device, torch.bfloat16)
  with torch.device("meta"):
    tflop = pytorch.count(getattr(libraries.wan_vae(config), direction), (x.to("meta").float(),)) / 1e3

  def run():
    with torch.inference_mode():
      out = getattr(module, direction)(x)
      return _finished(out.latent_dist.mode() if direction == "encode" else out.sample)

  yield from _timed(run, keep_on, tflop, device, {})


def transformer_inputs(config: TransformerConfig, rows: int, window: Window, device: str) -> tuple[torch.Tensor, ...]:
  """Latents with conditions, tau, text and image of all branches, in bfloat16."""
  options = dict(device=device, dtype=torch.bfloat16)
  return (torch.randn(rows, config.in_channels, *window.latents, **options),
          torch.full((rows,), 700, device=device),
          torch.randn(rows, config.text_tokens, config.text_dim, **options),
          torch.randn(rows, config.image_tokens, config.image_dim, **options))


def transformer_tflop(config: TransformerConfig, rows: int, window: Window) -> float:
  """Operations of the forward pass in 1e12; nothing is run."""
  with torch.device("meta"):
    inputs = [x.float() if x.is_floating_point() else x for x in transformer_inputs(config, rows, window, "meta")]
    return pytorch.count(libraries.wan_transformer(config), tuple(inputs)) / 1e3


def vae_input(config: VAEConfig, direction: str, window: Window) -> torch.Tensor:
  """[1, z_dim, f, h, w] latents or [1, 3, F, H, W] video."""
  if direction == "decode":
    return torch.randn(1, config.z_dim, *window.latents)
  return torch.rand(1, 3, window.frames, window.height, window.width) * 2 - 1


def fastest_attention(model, config: TransformerConfig, window: Window, device: str) -> str:
  """The name of the backend of `ATTENTION` that is the fastest for one clip's self-attention and works here."""
  tokens = window.latents[0] * window.positions
  q = torch.randn(1, tokens, config.num_heads, config.head_dim, device=device, dtype=torch.bfloat16)
  seconds = {}
  for name in ATTENTION:
    try:
      model.set_attention_backend(name)  # refuses those whose package is missing
      for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
          _finished(attention_dispatch.dispatch_attention_fn(
              q, q, q, backend=attention_dispatch.AttentionBackendName(name)))
        seconds[name] = time.perf_counter() - start
    except (RuntimeError, ImportError, ValueError):  # not installed, or not for this device
      seconds.pop(name, None)
  return min(seconds, key=seconds.__getitem__)


def _in_bfloat16(make: Callable[[], torch.nn.Module], device: str):
  """The module in bfloat16, except for what diffusers keeps in float32 when it loads weights."""
  with torch.device(device):
    module = make()
  module.to(torch.bfloat16)
  keep = module._keep_in_fp32_modules
  for name, child in module.named_modules():
    if name.split(".")[-1] in keep:
      child.float()
  for name, parameter in module.named_parameters():
    if name.split(".")[-1] in keep:
      parameter.data = parameter.data.float()
  return module


def _timed(run: Callable[[], torch.Tensor], keep_on: KeepOn, tflop: float, device: str, more: Result
           ) -> Iterator[Result]:
  on_gpu = device == "cuda"
  if on_gpu:
    torch.cuda.reset_peak_memory_stats()
  versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
  for first, seconds, results in measure.runs(run, keep_on):
    yield versions | more | {"first_seconds": round(first, 1)} | measure.figures(
        tflop, seconds, torch.cuda.get_device_name() if on_gpu else device,
        torch.cuda.max_memory_allocated() if on_gpu else None) | {"finite": bool(results[0].isfinite().all())}


def _finished(out: torch.Tensor) -> torch.Tensor:
  if out.is_cuda:
    torch.cuda.synchronize()
  return out
