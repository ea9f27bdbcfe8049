"""What configs and commands of version 0.1 name, and what it is called now."""

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
  """The name today of a module or package `name`, or of one that lies in it; None if it never moved."""
  for old, new in MODULES.items():
    if name == old or name.startswith(old + "."):
      return new + name[len(old):]
  return None


def module_of(error: ImportError) -> tuple[str, str] | None:
  """The old and the new name of what an import asked for; None if it never moved."""
  asked = [error.name or ""]
  quoted = str(error).split("'")  # cannot import name 'b' from 'a' (...)
  if len(quoted) > 3 and not isinstance(error, ModuleNotFoundError):
    asked.append(f"{quoted[3]}.{quoted[1]}")
  return next(((name, new) for name in asked if (new := module(name))), None)


def hint_of_field(path: str) -> str:
  """The sentence about a field that has another name now; "" if it never moved."""
  new = FIELDS.get(path.removeprefix("config."))
  return f" It is config.{new} now." if new else ""
