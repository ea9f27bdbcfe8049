"""The guidance that settings of sampling ask for, and the negative prompts that it needs."""

from emv3_jax import variants
from emv3_jax.diffusion import guidance, negative_phases
from emv3_jax.diffusion.guidance import UNGUIDED, Guidance
from emv3_jax.errors import InputError
from emv3_jax.sampling.settings import Settings


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


def negative_prompts(settings: Settings, variant: str, windows: str = "blended") -> dict[str, str | None]:
  """Returns the negative prompts that some step is guided by, None for that of the settings or of the request.

  Args:
    settings: complete.
    variant: of the model.
    windows: mode of `diffusion.windows`, see `Guidance.schedule`.

  Returns:
    Prompts by `negative_phases.name_of`.
  """
  found = guidance_of(settings, variant)
  prompts = negative_phases.distinct_prompts(found.phases)
  used = {step.negative for step in found.schedule(settings.steps, windows) if UNGUIDED in step.branches}
  return {negative_phases.name_of(index): prompts[index] for index in sorted(used)}


def why_unused(settings: Settings, variant: str) -> str:
  """Returns why the negative prompt of a request would not be used; "" where it is."""
  if not variants.of(variant).guided_by_text:
    return f"{variant} is not guided by text"
  prompts = negative_prompts(settings, variant, settings.long.mode).values()
  if not prompts:
    return f"there is no guidance by text at sampling.text_scale={settings.text_scale:g}"
  return "" if None in prompts else "every phase of sampling.png_phases has its own"


def unused_of_guidance(settings: Settings, variant: str) -> set[str]:
  """Returns the fields of guidance that have no effect beside the others."""
  schedule = guidance_of(settings, variant).schedule(settings.steps, settings.long.mode)
  guided = any(step.branches != guidance.FULL_ALONE for step in schedule)
  negative = negative_prompts(settings, variant, settings.long.mode)
  unused = set() if guided else {"audio_scale", "dynamic_audio"}
  if not guided or not variants.of(variant).guided_by_text:
    unused |= {"text_scale", "dynamic_text"}
  if not guided or settings.guidance_until == 1:
    unused.add("guidance_until")
  if None not in negative.values():
    unused.add("negative_prompt")
  if not negative or settings.png != "phases":
    unused.add("png_phases")
  if not negative or settings.png != "released" or settings.neg_scale == 1 or settings.neg_steps == -1:
    unused |= {"neg_scale", "neg_steps"}
  return unused
