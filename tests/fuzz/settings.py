"""Overrides of the fields of configs, with values of any kind."""

import dataclasses
import random
import types
import typing

_TEXTS = (
    "", "0", "-1", "1", "2", "3", "4", "5", "16", "64", "3.5", "-0.0", "1e999", "nan", "-inf", "1e-300", "1e5",
    "9" * 5000, str(2 ** 31), str(2 ** 63), "1_0", "0x10", "007", "None", "null", "True", "false", "[]", "()",
    "(1,)", "(1,2,3)", "((64, 64),)", "[[64,64]]", "[[64]]", "{}", "{'a': 1}", "set()", "'a'", "b'a'", "a\nb",
    "x\udcff", "x" * 5000, "[" * 3000, "-" * 3000 + "1", "__import__('os')", "🎉", "../x", "/dev/null",
    "/dev/full", "s3://b/x", "1;2", "a=b", "=", ".", "(", "\\", "%s", "{0}", "nan,nan", "1e5j", "...", "1 ",
    "tiny", "untrained", "none", "auto")
_WORDS = ("euler", "unipc", "dpmpp", "flf2v", "t2v", "lipsync", "bfloat16", "float64", "full", "muon", "lion",
          "sgd", "phased", "released", "in_turn", "blocked", "xla", "splash", "cudnn", "flash", "base",
          "absolute", "cosine", "recommended", "quality", "int8")


def names_of(cls) -> list[str]:
  """Dotted names of all fields of a dataclass, of its groups too."""
  names = []
  for name, hint in typing.get_type_hints(cls).items():
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    inner = next((part for part in parts if dataclasses.is_dataclass(part)), None)
    names += [name] if inner is None else [f"{name}.{field}" for field in names_of(inner)]
  return names


def text(rng: random.Random) -> str:
  kind = rng.randrange(4)
  if kind == 0:
    return rng.choice(_WORDS)
  return str(rng.randrange(-2, 70)) if kind == 1 else rng.choice(_TEXTS)


def overrides(names: list[str], count: int, rng: random.Random) -> list[str]:
  """So many arguments that set fields of these names, or nearly."""
  arguments = []
  for name in rng.sample(names, min(len(names), count)):
    value, kind = text(rng), rng.randrange(20)
    if kind == 0:  # near misses
      name = rng.choice((name[:-1], name + "s", name.upper(), name.partition(".")[0], f"{name}.x", f".{name}",
                         name.replace(".", ".."), "", "__class__", "model.__dict__", "a\nb", "x\udcff"))
    arguments += ([f"--config.{name}", value] if kind == 1 else [f"--config.{name}"] if kind == 2 else
                  [f"--config.{name}={value}"])
  return arguments


def values_of(arguments: list[str], *names: str) -> list[str]:
  """What these flags are given, in either form."""
  pairs = [argument.partition("=")[::2] for argument in arguments]
  given = [after if argument == name else value for (name, value), argument, after in zip(
      pairs, arguments, [*arguments[1:], ""], strict=True) if name in names]
  return [value for value in given if value]


def flags(known: dict[str, tuple[str, ...]], count: int, rng: random.Random) -> list[str]:
  """Some of the flags with values of theirs or any; now and then one that is not known, or shortened."""
  arguments = []
  for name in rng.sample(sorted(known), min(len(known), count)):
    own = known[name]
    value = rng.choice(own) if own and rng.random() < 0.6 else text(rng)
    kind = rng.randrange(12)
    if kind == 0:
      name = rng.choice((name[:-1], name.upper(), "", name + "x", "-" + name))
    arguments += ([f"--{name}"] if not own and kind > 1 or kind == 1 else
                  [f"--{name}", value] if kind == 2 else [f"--{name}={value}"])
  return arguments
