"""The parts: what each runs, and for how long at most."""

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

from benchmarks.gpu.measure import KeepOn, Result
from benchmarks.gpu.sizes import Sizes


@dataclasses.dataclass(frozen=True)
class Part:
  """One part, which runs in a process of its own.

  Attributes:
    cap: seconds after which the process is ended.
    content: what it runs, in words.
    run: from the module (`ours`, or `diffusers_modules` of parts torch_*), the sizes, `measure.KeepOn` and the
      platform `gpu` or `cpu` to what is known so far, again and again.
  """

  cap: float
  content: str
  run: Callable[[Any, Sizes, KeepOn, str], Iterator[Result]]


DEVICE = Part(60, "the device", lambda ours, sizes, keep_on, on: ours.device())
# The most telling first: the time of all parts may end before the last one. What is compared are neighbours.
PARTS = {
    "sample_step": Part(
        60, "sampling step of preview, all guidance branches together",
        lambda ours, sizes, keep_on, on: ours.program(sizes.preview, "sample_step", sizes.preview_window, keep_on)),
    "torch_sample_step": Part(
        60, "the same by diffusers, eager, without audio",
        lambda theirs, sizes, keep_on, on: theirs.sample_step(
            sizes.preview, sizes.preview_window, keep_on, on, compiled=False)),
    "torch_sample_step_compiled": Part(
        100, "the same by diffusers, torch.compile, without audio",
        lambda theirs, sizes, keep_on, on: theirs.sample_step(
            sizes.preview, sizes.preview_window, keep_on, on, compiled=True)),
    "vae_decode": Part(
        80, "latents to uint8 frames",
        lambda ours, sizes, keep_on, on: ours.program(sizes.preview, "vae_decode", sizes.preview_window, keep_on)),
    "torch_vae_decode": Part(
        60, "latents to frames by diffusers, eager",
        lambda theirs, sizes, keep_on, on: theirs.vae(
            sizes.preview.model.vae, "decode", sizes.preview_window, keep_on, on)),
    "train_step": Part(
        80, "training step of one clip, every layer recomputed",
        lambda ours, sizes, keep_on, on: ours.program(sizes.training, "train_step", sizes.training_window, keep_on)),
    "head": Part(
        90, "clip of the preset head, five steps, from noise to frames on the host",
        lambda ours, sizes, keep_on, on: ours.head(sizes, keep_on)),
    "vae_encode": Part(
        60, "frames to latents",
        lambda ours, sizes, keep_on, on: ours.program(sizes.preview, "vae_encode", sizes.preview_window, keep_on)),
    "torch_vae_encode": Part(
        40, "the same by diffusers, eager",
        lambda theirs, sizes, keep_on, on: theirs.vae(
            sizes.preview.model.vae, "encode", sizes.preview_window, keep_on, on)),
    "sample_step_in_turn": Part(
        60, "sampling step of preview, one guidance branch after the other",
        lambda ours, sizes, keep_on, on: ours.program(sizes.in_turn(), "sample_step", sizes.preview_window, keep_on)),
    "flash_step": Part(
        50, "sampling step of flash",
        lambda ours, sizes, keep_on, on: ours.program(sizes.flash, "sample_step", sizes.flash_window, keep_on)),
    "text_encoder": Part(
        50, "umT5 of one prompt, all layers on the device",
        lambda ours, sizes, keep_on, on: ours.program(sizes.preview, "text_encoder", sizes.preview_window, keep_on)),
    "attention": Part(
        40, "the platform's kernel in bfloat16 against float32",
        lambda ours, sizes, keep_on, on: ours.attention(sizes)),
}


def is_of_torch(name: str) -> bool:
  """Whether the part `name` is PyTorch's."""
  return name.startswith("torch_")
