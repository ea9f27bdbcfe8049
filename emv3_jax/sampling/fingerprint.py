"""The fingerprint of a clip: one digest of everything that determines its pixels and sound.

Two clips with one fingerprint differ at most by rounding errors. The fingerprint excludes what changes only
rounding (mesh, branches, attention backend, device, release of JAX), only the cost, or only names (paths,
names of configs), and settings that the task or the variant does not use.

Entries have their own names, so that renaming a field of a config changes no fingerprint.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from emv3_jax import geometry, tasks, variants
from emv3_jax.components.config import COMPONENTS
from emv3_jax.conditioning import face_boxes
from emv3_jax.errors import InputError
from emv3_jax.faces import detect, track
from emv3_jax.io.digests import file_digest
from emv3_jax.models.cross_attention import ALLOCATIONS
from emv3_jax.sampling import long_plan
from emv3_jax.sampling.guidance_settings import prompts_of_phases, unused_of_guidance
from emv3_jax.sampling.inputs import looks_for_faces, num_frames, uses_face_box
from emv3_jax.sampling.model import Model
from emv3_jax.sampling.settings import VISUAL_INPUTS, Request
from emv3_jax.tasks import TaskSpec, face_masks

VERSION = 1  # format of `entries`
NUMERICS = 2  # to be increased when the code computes other pixels or sound from the same entries


def _fields(entries: str, path: str, names: str, **renamed: str) -> dict[str, str]:
  """Maps entries to fields of the same name; `renamed` lists entry=field for other names."""
  found = {name: name for name in names.split()} | renamed
  return {f"{entries}.{entry}": f"{path}.{name}" for entry, name in found.items()}


# entry -> path of the field; of several paths the first value that is not None counts.
VALUES: dict[str, str | tuple[str, ...]] = {
    "task": "request.task",
    "prompt": "request.prompt",
    "negative_prompt": ("request.negative_prompt", "config.sampling.negative_prompt"),
    "seed": ("request.seed", "config.seed"),
    "seconds": "request.seconds",
    "face_box": "request.face_box",
    "paste": "request.paste",
    "solver": "config.sampling.solver",
    "steps": "config.sampling.steps",
    "shift": "config.sampling.shift",
    "solver_shift": "config.sampling.solver_shift",
    "text_scale": "config.sampling.text_scale",
    "audio_scale": "config.sampling.audio_scale",
    "dynamic_text": "config.sampling.dynamic_text",
    "dynamic_audio": "config.sampling.dynamic_audio",
    "guidance_until": "config.sampling.guidance_until",
    "png_phases": ("request.negative_prompts", "config.sampling.png_phases"),
    "neg_scale": "config.sampling.neg_scale",
    "neg_steps": "config.sampling.neg_steps",
    "audio_gain": "config.sampling.audio_gain",
    "allocation": "config.sampling.allocation",
    "face_mask": "config.sampling.face_mask",
    "riflex_k": "config.sampling.riflex_k",
    "max_area": "config.sampling.max_area",
    "height": "config.sampling.height",
    "width": "config.sampling.width",
    "enlarge": "config.sampling.enlarge",
    "prompts": "request.prompts",
    "max_frames": "config.sampling.max_frames",
    "length_buckets": "config.sampling.length_buckets",
    **_fields("long", "config.sampling.long", "mode window overlap anchor keep_picture match_colour"),
    **_fields("cache", "config.sampling.cache", "kind threshold skip_start max_skips retention"),
    **_fields("network.transformer", "config.model.transformer",
              "variant dim ffn_dim num_heads num_layers in_channels out_channels freq_dim text_dim "
              "text_tokens image_dim image_tokens audio_dim audio_layers audio_hidden audio_tokens "
              "eps"),
    **_fields("network.vae", "config.model.vae",
              "base_dim z_dim multipliers num_res_blocks temporal_downsample latent_mean "
              "latent_std"),
    **_fields("network.text_encoder", "config.model.text_encoder",
              "vocab_size dim attention_dim ffn_dim num_heads num_layers num_buckets max_distance "
              "eps"),
    **_fields("network.image_encoder", "config.model.image_encoder",
              "dim num_layers num_heads mlp_ratio image_size patch_size eps"),
    **_fields("network.audio_encoder", "config.model.audio_encoder",
              "dim ffn_dim num_layers num_heads conv_dim conv_kernels conv_strides "
              "position_kernel position_groups eps"),
    **{entry: path for name in COMPONENTS for entry, path in _fields(
        f"precision.{name}", f"config.precision.{name}", "params compute").items()},
}

# Files whose contents count: entry -> path of the field that names the file.
FILES = {
    **_fields("file", "request", " ".join(("audio", *VISUAL_INPUTS))),
    "file.face_detector": "config.face_detector",
    "file.tokenizer": "config.tokenizer",
    "file.calibration": "config.sampling.cache.file",
}

# Fields that do not affect the content of a clip, with the reason.
EXCLUDED = {
    "config.name": "a name",
    "config.checkpoint": "a path; the weights have digests",
    "config.prompt_cache": "a path",
    "config.prompt_cache_mib": "disk only",
    "config.program_cache": "a path",
    "config.program_cache_mib": "disk only",
    "config.keep_parts": "memory only",
    "config.mesh.data": "rounding only",
    "config.mesh.fsdp": "rounding only",
    "config.mesh.context": "rounding only",
    "config.mesh.tensor": "rounding only",
    "config.mesh.attention": "rounding only",
    "config.sampling.preset": "a name; its settings count",
    "config.sampling.allow_mismatch": "a permission; the allowed value counts",
    "config.sampling.released_switch": "decides whether the scales count",
    "config.sampling.png": "decides whether the phases or neg_scale count",
    "config.sampling.attention": "rounding only",
    "config.sampling.branches": "rounding only",
    "config.sampling.token_blocks": "rounding only",
    "config.sampling.long.window_batch": "rounding only",
}


def fingerprint(model: Model, request: Request) -> str:
  """Computes the fingerprint, in hex, of the clip that `sample(model, request)` returns.

  Raises:
    InputError: a file of the request or a network cannot be read, a network is not in the model
      folder, or the task is unknown.
  """
  return digest_of(entries(model, request))


def digest_of(values: dict) -> str:
  """Computes the sha256, in hex, of `entries`."""
  text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


def entries(model: Model, request: Request) -> dict[str, Any]:
  """Collects all that the fingerprint depends on in a flat dict that can be written as JSON.

  Raises:
    InputError: see `fingerprint`.
  """
  task = tasks.of(request.task)
  roots = {"config": model.config, "request": request}
  found = {entry: _first(roots, path) for entry, path in VALUES.items()}
  found |= {entry: _first(roots, path) for entry, path in FILES.items()}
  found["file.tokenizer"] = model.tokenizer_path
  found["file.calibration"] = model.calibration_path
  found["paste"] = found["paste"] is not False
  allocation = ALLOCATIONS.get(found["allocation"])
  if allocation is not None:  # by its curves, not by its name
    found["allocation"] = dataclasses.asdict(allocation)
  found["face_box"] = _face_box(found)
  settings = model.config.settings
  found["png_phases"] = [
      (phase.end(settings.steps), prompt, phase.weight)
      for phase, prompt in zip(settings.png_phases, prompts_of_phases(settings, request), strict=False)]
  unused = (_unused(found, task) | unused_of_guidance(settings, model.config.model.transformer.variant)
            | _unused_of_length(found, model, request, task))
  used = {entry: pathlib.Path(value) if entry in FILES else value for entry, value in found.items()
          if entry not in unused and value is not None}
  digests = network_digests(model)
  unknown = [name for name, digest in digests.items() if not digest]
  if unknown:
    raise InputError(f"The clip has no fingerprint: the weights of {', '.join(unknown)} are not in "
                     "the model folder.")
  if used.get("face_box") == "auto" and "file.face_detector" not in used:
    used["face_detector"] = detect.IDENTITY
  if used.get("face_box") == "auto" and task.inpaints_mouth:  # the face is followed through a video
    used["face_track"] = track.VERSION
  used |= {f"weights.{name}": digest for name, digest in digests.items()}
  if not model.normalises_waveform and variants.of(model.config.model.transformer.variant).follows_extractor:
    used["features.do_normalize"] = False  # True, the usual value, is left out
  return {"version": VERSION, "numerics": NUMERICS, **_plain(used)}


def network_digests(model: Model) -> dict[str, str]:
  """Returns the digest of each of the five networks, "" for those that are not in the model folder.

  Raises:
    InputError: a network is incomplete or cannot be read.
  """
  return {name: model.digest(name) for name in COMPONENTS}


def provenance(model: Model, request: Request) -> dict[str, Any]:
  """Returns the provenance of a clip for its report: fingerprint, digests of the networks, tokenizer.

  The result is empty if a network is not in the model folder.

  Raises:
    InputError: see `fingerprint`.
  """
  digests = network_digests(model)
  if not all(digests.values()):
    return {}
  found = entries(model, request)
  return {"fingerprint": digest_of(found), "fingerprint_version": VERSION, "networks": digests,
          "tokenizer": found["file.tokenizer"]}


def _first(roots: dict, paths: str | tuple[str, ...]) -> Any:
  for path in (paths,) if isinstance(paths, str) else paths:
    value = functools.reduce(getattr, path.split(".")[1:], roots[path.split(".")[0]])
    if value is not None:
      return value
  return None


def _face_box(found: dict) -> Any:
  """Returns `auto`, `none`, four numbers, or the path of a file."""
  source = "auto" if found["face_box"] is None else found["face_box"]
  if face_boxes.is_file(source):
    return pathlib.Path(source)
  try:
    return [float(part) for part in source.split(",")]
  except ValueError:
    return source


def _unused(found: dict, task: TaskSpec) -> set[str]:
  """Returns the entries without effect for this task, this variant or these settings."""
  variant, unused = variants.of(found["network.transformer.variant"]), set()
  if found["cache.kind"] == "none":  # such a clip has the fingerprint that it always had
    unused |= {entry for entry in found if entry.startswith("cache.")}
  unused.add("prompt" if found["prompts"] else "prompts")
  if found["solver"] == "euler":
    unused.add("solver_shift")
  unused |= {"max_area"} if found["height"] else {"height", "width"}
  if task.postprocess is None:
    unused.add("paste")
  unused |= {f"file.{name}" for name in VISUAL_INPUTS if name not in task.inputs}
  one_box = isinstance(found["face_box"], list) or found["face_box"] == "none"
  if found["face_mask"] in (None, face_masks.RELEASED) or one_box or not looks_for_faces(task, variant):
    unused.add("face_mask")  # without it a clip has the fingerprint that it always had
  if not uses_face_box(task, variant):
    unused.add("face_box")
  if "face_box" in unused or found["face_box"] != "auto" or not found["file.face_detector"]:
    unused.add("file.face_detector")
  return unused


def _unused_of_length(found: dict, model: Model, request: Request, task: TaskSpec) -> set[str]:
  """Returns the entries of long clips that have no effect, all of them for a clip that fits into one window.

  A long clip has as `long.window` and `long.overlap` the frames that are meant by 0. Sound that cannot be decoded
  makes no clip; it counts as short.
  """
  unused, settings = {"max_frames"}, model.config.settings
  try:
    frames = num_frames(request)
  except InputError:
    frames = 1
  if not long_plan.is_long(settings, geometry.sample_frames(frames)):
    unused |= set() if settings.length_buckets else {"length_buckets"}
    return unused | {entry for entry in found if entry.startswith("long.")}
  unused.add("length_buckets")
  window = settings.long.window_frames(settings.max_frames)
  overlap = settings.long.overlap_latents(geometry.latent_frames(window))
  found |= {"long.window": window, "long.overlap": geometry.frames_of(overlap)}
  anchored = bool(task.condition_inputs) and task.condition_inputs[0].request_field == "image"
  if not anchored or found["long.mode"] in ("chunked", "released"):
    unused.add("long.anchor")
  if task.reference_image is None or found["long.mode"] == "released":
    unused.add("long.keep_picture")
  return unused


def _plain(value: Any) -> Any:
  """Converts a value for JSON: 4.0 becomes 4, a path becomes the digest of the file."""
  if isinstance(value, pathlib.Path):
    return file_digest(value)
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, (tuple, list)):
    return [_plain(item) for item in value]
  if isinstance(value, np.generic):
    value = value.item()
  return int(value) if isinstance(value, float) and value.is_integer() else value
