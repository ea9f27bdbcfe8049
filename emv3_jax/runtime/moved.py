"""Names of modules, commands and config fields in version 0.1, and their names today."""

# Packages and modules that config files import.
MODULES = {
    "emv3_jax.attention_backends": "emv3_jax.attention.backends",
    "emv3_jax.command_line": "emv3_jax.runtime.command_line",
    "emv3_jax.config": "emv3_jax.runtime.config",
    "emv3_jax.data.preparation": "emv3_jax.preparation",
    "emv3_jax.data.puppets": "emv3_jax.puppets.world",
    "emv3_jax.model_config": "emv3_jax.components.config",
    "emv3_jax.sampling.programs": "emv3_jax.components.programs",
    "emv3_jax.tasks.schedule": "emv3_jax.training.curriculum",
}
# Fields of a config, as dotted paths.
FIELDS = {"preview.sampling": "sampling"}


def module(name: str) -> str | None:
  """Returns today's name of a module or package, or of a module in it; None if it never moved."""
  for old, new in MODULES.items():
    if name == old or name.startswith(old + "."):
      return new + name[len(old):]
  return None


def module_of(error: ImportError) -> tuple[str, str] | None:
  """Returns old and new name of an imported module; None if it never moved."""
  candidates = [error.name or ""]
  quoted = str(error).split("'")  # cannot import name 'b' from 'a' (...)
  if len(quoted) > 3 and not isinstance(error, ModuleNotFoundError):
    candidates.append(f"{quoted[3]}.{quoted[1]}")
  return next(((name, new) for name in candidates if (new := module(name))), None)


def hint_of_field(path: str) -> str:
  """Returns a sentence about a renamed field; "" if it was not renamed."""
  new = FIELDS.get(path.removeprefix("config."))
  return f" It is config.{new} now." if new else ""
