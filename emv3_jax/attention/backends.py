"""Local attention by name: which kernel runs on which platform, and what it can serve.

A backend that cannot serve a platform, a dtype or a shape is an error that says why. None falls back
to another one, least of all to attention that holds all logits: at 66,816 tokens those of one
layer are 200 GB.

| name     | platforms     | what it is                                                     |
|----------|---------------|----------------------------------------------------------------|
| blocked  | cpu, gpu, tpu | plain JAX, one head and one block of queries at a time         |
| xla      | cpu, gpu, tpu | plain JAX, all logits at once; small inputs only               |
| splash   | tpu           | Pallas kernel of jax.experimental                              |
| cudnn    | gpu           | cuDNN's fused attention                                        |
| tokamax:KERNEL | by kernel | kernel of the package tokamax, an extra; see TOKAMAX           |
| auto     | all           | blocked on cpu, cudnn on gpu, splash on tpu; logged            |

`register` adds others.
"""

from collections.abc import Callable
import dataclasses
import functools
import importlib

from absl import flags, logging
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from emv3_jax.attention.local import Attend, attend_blocked, attend_xla
from emv3_jax.attention.splash import attend_splash
from emv3_jax.errors import InputError, nearest

AUTO = {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}
TOKAMAX = {  # kernel -> platforms; its quadratic `xla` is left out
    "mosaic_gpu": ("gpu",), "mosaic_tpu": ("tpu",), "triton": ("gpu",), "cudnn": ("gpu",),
    "xla_chunked": ("cpu", "gpu", "tpu")}
MAX_XLA_LOGITS = 2 ** 28  # 1 GiB in float32

_ALL = ("cpu", "gpu", "tpu")
_ANY = ("float32", "bfloat16")
_HALF = ("bfloat16",)
_LIBRARY = (RuntimeError, ValueError)  # no cuDNN, an old GPU, a kernel that lacks something


@dataclasses.dataclass(frozen=True)
class Backend:
  """A local attention and what it can serve.

  Attributes:
    name: as in configs.
    platforms: where it runs.
    dtypes: of q, k and v.
    attend: the attention itself.
    refuses: from q and k to the reason why their shapes cannot be served, or None.
    refusals: what `attend` raises for a shape or a machine that it cannot serve.
    takes_keys: whether `attend` takes `keys`, and so can leave some of them out.
  """

  name: str
  platforms: tuple[str, ...]
  dtypes: tuple[str, ...]
  attend: Attend
  refuses: Callable[[jax.Array, jax.Array], str | None] = lambda q, k: None
  refusals: tuple[type[Exception], ...] = ()
  takes_keys: bool = False

  def __call__(self, q: Float[jax.Array, "b s n k"], k: Float[jax.Array, "b m n k"],
               v: Float[jax.Array, "b m n k"], keys: Bool[jax.Array, "m"] | None = None
               ) -> Float[jax.Array, "b s n k"]:
    """Attention of every query to every key, or to those of `keys`, the output in the dtype of `q`.

    Raises:
      InputError: dtype, shape or machine that the backend does not serve, or `keys` that it does not take.
    """
    if keys is not None:
      self.check_keys()
    for array in (q, k, v):
      if array.dtype.name not in self.dtypes:
        raise InputError(
            f"Attention backend {self.name} serves {', '.join(self.dtypes)}, not {array.dtype}; set "
            "the transformer's compute dtype to one of these, or the backend to blocked.")
    if reason := self.refuses(q, k):
      raise self._refusal(q, k, reason)
    try:
      return self.attend(q, k, v) if keys is None else self.attend(q, k, v, keys)
    except self.refusals as error:
      raise self._refusal(q, k, " ".join(str(error).split()).rstrip(".")) from error

  def check_keys(self) -> None:
    """Checks that the backend can leave keys out.

    Raises:
      InputError: it cannot; names those that can.
    """
    if not self.takes_keys:
      able = " or ".join(name for name, backend in BACKENDS.items() if backend.takes_keys)
      raise InputError(f"Attention backend {self.name} attends to every key, so that it cannot serve "
                       f"sampling.length_buckets; set sampling.attention to {able}, or leave length_buckets out.")

  def _refusal(self, q: jax.Array, k: jax.Array, reason: str) -> InputError:
    return InputError(f"Attention backend {self.name} cannot serve q {q.shape}, k {k.shape}: "
                      f"{reason}; set the backend to blocked.")


def _attend_cudnn(q, k, v):
  attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
  b, s, m = *q.shape[:2], k.shape[1]
  if s % 2 == m % 2 == 0:
    return attend(q, k, v)
  # JAX refuses its gradient for odd lengths, such as CLIP's 257 tokens.
  even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
  return attend(even(q), even(k), even(v), query_seq_lengths=jnp.full(b, s, jnp.int32),
                key_value_seq_lengths=jnp.full(b, m, jnp.int32))[:, :s]


def _refuses_xla(q, k):
  logits = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1]
  if logits > MAX_XLA_LOGITS:
    return f"all logits at once would take {4 * logits / 2 ** 30:.1f} GiB, 1 is allowed"
  return None


def _refuses_cudnn(q, k):
  if q.shape[-1] > 128 or q.shape[-1] % 8:
    return f"a head of {q.shape[-1]} is not a multiple of 8 up to 128"
  return None


BACKENDS = {backend.name: backend for backend in (
    Backend("blocked", _ALL, _ANY, attend_blocked, takes_keys=True),
    Backend("xla", _ALL, _ANY, attend_xla, _refuses_xla, takes_keys=True),
    # In float32 its products are rounded to bfloat16, which a float32 config does not ask for.
    Backend("splash", ("tpu",), _HALF, attend_splash),
    Backend("cudnn", ("gpu",), _HALF, _attend_cudnn, _refuses_cudnn, _LIBRARY),
)}


def register(backend: Backend) -> None:
  """Adds a backend to those that configs of this process can name.

  Raises:
    ValueError: the name is another backend's or cannot be one.
  """
  if not backend.name.isidentifier() or backend.name in ("auto", "tokamax"):
    raise ValueError(f"An attention backend cannot be named {backend.name!r}.")
  if BACKENDS.setdefault(backend.name, backend) != backend:
    raise ValueError(f"There is an attention backend {backend.name!r} already; register it under "
                     "another name.")


def select(name: str = "auto", platform: str | None = None, *, with_keys: bool = False) -> Backend:
  """The backend of a config.

  Args:
    name: a name of the table above.
    platform: cpu, gpu or tpu, where the program will run; None is JAX's default.
    with_keys: whether it has to leave keys out.

  Raises:
    InputError: unknown name, a platform that the backend does not run on, a missing package, or a backend that cannot
      leave keys out.
  """
  platform = platform or jax.default_backend()
  if name == "auto":
    if platform not in AUTO:
      raise InputError(f"No attention backend for platform {platform}; known: {', '.join(AUTO)}.")
    name = AUTO[platform]
    logging.info("Attention backend on %s: %s.", platform, name)
  check_name(name)
  backend = BACKENDS.get(name) or _tokamax(name)
  if platform not in backend.platforms:
    raise InputError(f"Attention backend {name} runs on {' and '.join(backend.platforms)}, not on "
                     f"{platform}; use auto, which is {AUTO.get(platform, 'blocked')} there.")
  if with_keys:
    backend.check_keys()
  return backend


def check_name(name: str) -> None:
  """Checks the name alone; `select` checks that the machine has what the backend needs.

  Raises:
    InputError: no such backend.
  """
  package, _, kernel = name.partition(":")
  if package == "tokamax" and kernel not in TOKAMAX:
    raise InputError(f"Attention backend {name!r} names no tokamax kernel; write tokamax:KERNEL with "
                     f"one of {', '.join(TOKAMAX)}.")
  if package != "tokamax" and name not in ("auto", *BACKENDS):
    raise InputError(f"Unknown attention backend {name!r}; "
                     f"{nearest(name, ['auto', *BACKENDS, 'tokamax:KERNEL'])}")


@functools.cache
def _tokamax(name: str) -> Backend:
  kernel = name.partition(":")[2]
  try:
    tokamax = importlib.import_module("tokamax")
  except ModuleNotFoundError as error:
    raise InputError(f"Attention backend {name} needs the package {error.name}; run "
                     "pip install --editable '.[tokamax]'.") from error
  if not flags.FLAGS.is_parsed():  # else tokamax parses the command line, and refuses ours
    flags.FLAGS.mark_as_parsed()

  def attend(q, k, v):
    highest = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    return tokamax.dot_product_attention(q, k, v, precision=highest, implementation=kernel)

  return Backend(name, TOKAMAX[kernel], _ANY, attend, refusals=_LIBRARY)
