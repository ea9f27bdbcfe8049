"""Components for conversion: name tables, sizes and network."""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import fnmatch
from typing import Any

from emv3_jax.errors import InputError
from emv3_jax.models.network import Params

from .table import Leaf, Match, Row

MAX_LAYERS = 1000
MAX_SIZE = 1 << 24


@dataclasses.dataclass(frozen=True)
class Layout:
  """A naming scheme for the tensors of a component.

  Attributes:
    name: "official", or the library that uses these names.
    rows: the name table.
    variant: variant of the model, for transformers.
    prefixes: prefixes that are removed from names (the library has the network as part of a larger one).
    dropped: prefix of the names in `rows` that is missing in files of some releases of the library.
    aliases: {other spelling: name in `rows`}.
    unused: patterns of tensors that published files contain, but the network does not use.
    last_block: name of a tensor; if a file has it, its last layer is unused as well.
    last_block_pattern: prefix of the names of a layer, with `{l}` for its number.
  """

  name: str
  rows: tuple[Row, ...]
  variant: str | None = None
  prefixes: tuple[str, ...] = ()
  dropped: str = ""
  aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
  unused: tuple[str, ...] = ()
  last_block: str | None = None
  last_block_pattern: str = ""

  @property
  def leaves(self) -> list[Leaf]:
    return [leaf for row in self.rows for leaf in row.leaves()]

  def plain(self, names: Collection[str]) -> dict[str, str]:
    """Returns {name as in `rows`: name in the file}."""
    if self.dropped and not any(name.startswith(self.dropped) for name in names):
      return {f"{self.dropped}{name}": name for name in names}
    plain = {}
    for name in names:
      prefix = next((prefix for prefix in self.prefixes if name.startswith(prefix)), "")
      without = name.removeprefix(prefix)
      plain[name if without in names else without] = name
    for alias, target in self.aliases.items():
      if alias in plain and target not in plain:
        plain[target] = plain.pop(alias)
    return plain

  def unused_among(self, plain_names: Collection[str]) -> dict[str, str]:
    """Returns {name: pattern} of the names that `unused` lists or that belong to an unused last layer."""
    patterns = list(self.unused)
    if self.last_block in plain_names:
      head, tail = self.last_block_pattern.split("{l}")
      numbers = [name.removeprefix(head).split(".")[0] for name in plain_names
                 if name.startswith(head)]
      patterns.append(f"{head}{max((int(n) for n in numbers if n.isdigit()), default=0)}{tail}*")
    return {name: pattern for name in plain_names for pattern in patterns
            if fnmatch.fnmatchcase(name, pattern)}


@dataclasses.dataclass(frozen=True)
class Component:
  """A part of the model that is converted on its own.

  Attributes:
    name: name of its folder in the model folder.
    layouts: naming schemes of its tensors, the official one of each variant first.
    config: the network's config dataclass.
    sizes: function from the matched shapes and the `config.json` beside the file (empty if there is
      none) to fields of `config`; None for a field that cannot be inferred.
    abstract: function from config and variant to the network's abstract parameters.
    head_dim: width of a head in the released model; None if shapes determine the number of heads.
  """

  name: str
  layouts: tuple[Layout, ...]
  config: type
  sizes: Callable[[Match, Mapping[str, Any]], dict[str, Any]]
  abstract: Callable[[Any, str | None], Params]
  head_dim: int | None = None

  def infer_config(self, match: Match, layout: Layout, beside: Mapping[str, Any],
                   given: Mapping[str, Any]):
    """Infers the network's config from shapes and `config.json`; fields of `given` take precedence.

    A file with the sizes of the released model must have as many layers, so that a file without the last
    layers is not mistaken for a smaller model.

    Raises:
      InputError: a field is unknown, or the sizes contradict each other.
    """
    names = {field.name for field in dataclasses.fields(self.config)}
    for name in sorted(given.keys() - names):
      raise InputError(f"{self.name} has no config field {name}; known: {', '.join(sorted(names))}.")
    try:
      values = {**self.sizes(match, beside), **given}
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
      raise InputError(f"{self.name}: its shapes, or the config.json beside it, do not fit this network "
                       f"({str(error)[:150]}).\nGive the checkpoint as published.") from error
    if "variant" in names and layout.variant in ("preview", "flash"):
      values["variant"] = layout.variant
    if self.head_dim and values["num_heads"] is None and values["dim"]:
      values["num_heads"] = self._released_heads(values["dim"], self.head_dim)
    fields = {name: value for name, value in values.items() if value is not None}
    self._check_types(fields)
    try:
      config = self.config(**fields)
      released = self.config(**({"variant": config.variant} if "variant" in names else {}))
    except (ValueError, TypeError) as error:
      raise InputError(f"{self.name}: {error}\nGive the sizes that cannot be inferred from shapes with "
                       "--config_json.") from error
    if "num_layers" in names and "num_layers" not in given:
      full = dataclasses.replace(config, num_layers=released.num_layers)
      return full if full == released else config
    return config

  def _check_types(self, fields: Mapping[str, Any]) -> None:
    """Checks the types of config values, which may be written by hand; errors name the field."""
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self.config)}
    for name, value in fields.items():
      wanted = type(defaults[name])
      fits = (isinstance(value, tuple) and all(_is_a(type(defaults[name][0]), part) for part in value)
              if wanted is tuple else _is_a(wanted, value))
      if not fits:
        what = (f"a list of type {type(defaults[name][0]).__name__}" if wanted is tuple
                else f"a value of type {wanted.__name__}")
        raise InputError(f"{self.name}: config field {name} is {str(repr(value))[:80]}, wanted {what}.")
      if isinstance(value, int) and (wanted is int and not 0 < value <= MAX_SIZE
                                     or name == "num_layers" and value > MAX_LAYERS):
        raise InputError(f"{self.name}: config field {name} is {str(value)[:30]}, which is not a valid size of this "
                         "network.")

  def _released_heads(self, dim: int, width: int) -> int:
    if dim % width:
      raise InputError(f"{self.name}: shapes do not determine the number of heads of width {dim} "
                       f"(released: {width} a head).\nPut the config.json beside the file, "
                       """or give it: --config_json='{"num_heads": N}'""")
    return dim // width


def _is_a(wanted: type, value) -> bool:
  """Returns whether a JSON value is valid for a config value: 3 for 3.0, but not true for 1."""
  if wanted is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
  return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
