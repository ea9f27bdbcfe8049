"""The guidance that settings of sampling ask for, and the negative prompts that it needs."""

import json

from absl import logging

from emv3_jax import variants
from emv3_jax.diffusion import guidance, negative_phases
from emv3_jax.diffusion.guidance import UNGUIDED, Guidance
from emv3_jax.diffusion.negative_phases import Phase
from emv3_jax.errors import InputError
from emv3_jax.limits import shown
from emv3_jax.sampling.settings import Request, Settings

FORM = '["jerky hands", "blurred teeth"]'


def guidance_of(settings: Settings, variant: str) -> Guidance:
  """Makes the guidance of complete settings.

  Raises:
    InputError: the variant has no guidance by text, which the settings ask for, or phases do not fit the steps.
  """
  mode = variants.of(variant).guidance
  phased = settings.png == "phases"
  if phased and not variants.of(variant).guided_by_text:
    raise InputError(f"sampling.png is 'phases', and {variant} is not guided by text: it has no negative prompt. "
                     "Leave it out.")
  found = Guidance(
      mode=mode, text_scale=settings.text_scale, audio_scale=settings.audio_scale,
      dynamic_text=settings.dynamic_text, dynamic_audio=settings.dynamic_audio,
      neg_scale=settings.neg_scale if settings.png == "released" else 1.0, neg_steps=settings.neg_steps,
      until=settings.guidance_until, released_switch=settings.released_switch,
      phases=settings.png_phases if phased else ())
  found.schedule(settings.steps)  # phases that do not fit are refused here
  return found


def warn_of_weights(settings: Settings) -> None:
  """Logs a warning of each phase in which there is no guidance by text."""
  for number, phase in enumerate(settings.png_phases if settings.png == "phases" else ()):
    if phase.weight == 0:
      logging.warning("sampling.png_phases.%d has weight 0: its steps are not guided by text, and its negative prompt "
                      "has no effect.", number)


def parse_prompts(text: str) -> tuple[str, ...]:
  """Reads negative prompts of a command line, a JSON list.

  Raises:
    InputError: it is none, or has something else than text in it.
  """
  try:
    prompts = json.loads(text)
  except (ValueError, RecursionError):
    prompts = None
  if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
    raise InputError(f"--negative_prompts is {shown(text)}, no JSON list of texts; write it as "
                     f"--negative_prompts='{FORM}'.")
  return tuple(prompts)


def prompts_of_phases(settings: Settings, request: Request) -> tuple[str, ...]:
  """Returns the negative prompt of each phase; without phases that of the settings or of the request alone."""
  single = settings.negative_prompt if request.negative_prompt is None else request.negative_prompt
  phases = settings.png_phases if settings.png == "phases" else (Phase(),)
  return request.negative_prompts or tuple(
      single if phase.negative_prompt is None else phase.negative_prompt for phase in phases)


def negative_prompts(settings: Settings, variant: str, request: Request, windows: str = "blended") -> dict[str, str]:
  """Returns the negative prompts that some step is guided by, by `negative_phases.name_of`.

  Args:
    settings: complete.
    variant: of the model.
    request: of the clip, checked by `check_negative_prompts`.
    windows: mode of `diffusion.windows`, see `Guidance.schedule`.
  """
  prompts = prompts_of_phases(settings, request)
  return {negative_phases.name_of(number): prompts[number] for number in _used(settings, variant, windows)}


def _used(settings: Settings, variant: str, windows: str) -> list[int]:
  """Returns the numbers of the phases whose negative prompt has an effect."""
  schedule = guidance_of(settings, variant).schedule(settings.steps, windows)
  return sorted({step.negative for step in schedule if UNGUIDED in step.branches})


def check_negative_prompts(settings: Settings, variant: str, request: Request) -> None:
  """Checks the negative prompts of a request.

  Raises:
    InputError: one would have no effect, or there is not one for each phase.
  """
  several, phased = request.negative_prompts, settings.png == "phases"
  if request.negative_prompt is None and not several:
    return
  used = _used(settings, variant, settings.long.mode)
  if not variants.of(variant).guided_by_text:
    why = f"{variant} is not guided by text"
  elif not used:
    why = f"there is no guidance by text at sampling.text_scale={settings.text_scale:g}"
  elif several and not phased:
    why = f"they are for phases, sampling.png is {settings.png!r}"
  elif not several and phased and all(settings.png_phases[number].negative_prompt is not None for number in used):
    why = "each phase of sampling.png_phases has its own; there is --negative_prompts"
  elif several and len(several) != len(settings.png_phases):
    raise InputError(f"--negative_prompts has {len(several)} prompts for the {len(settings.png_phases)} phases of "
                     "sampling.png_phases; give one for each.")
  else:
    return
  names = ("The negative prompts", "--negative_prompts") if several else ("The negative prompt", "--negative_prompt")
  raise InputError(f"{names[0]} would not be used: {why}. Leave {names[1]} out.")


def unused_of_guidance(settings: Settings, variant: str) -> set[str]:
  """Returns the fields of guidance that have no effect beside the others."""
  schedule = guidance_of(settings, variant).schedule(settings.steps, settings.long.mode)
  guided = any(step.branches != guidance.FULL_ALONE for step in schedule)
  negative = any(UNGUIDED in step.branches for step in schedule)
  unused = set() if guided else {"audio_scale", "dynamic_audio"}
  if not guided or not variants.of(variant).guided_by_text:
    unused |= {"text_scale", "dynamic_text"}
  if not guided or settings.guidance_until == 1:
    unused.add("guidance_until")
  if not negative or settings.png == "phases":
    unused.add("negative_prompt")
  if not negative or settings.png != "phases":
    unused.add("png_phases")
  if not negative or settings.png != "released" or settings.neg_scale == 1 or settings.neg_steps == -1:
    unused |= {"neg_scale", "neg_steps"}
  return unused
