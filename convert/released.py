"""Names, shapes and dtypes of the tensors of the official files, from the name tables."""

from emv3_jax.models.network import named_leaves

from .plan import COMPONENTS

DTYPES = {  # of the released files
    "transformer": "bfloat16", "vae": "float32", "text_encoder": "bfloat16",
    "image_encoder": "float32", "audio_encoder": "float32"}


def tensors(component: str, variant: str | None = None, config=None,
            ) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns {official name: (shape, dtype)} of the tensors that a component's network uses.

  Args:
    component: name of a component in `COMPONENTS`.
    variant: `preview` or `flash`, for the transformer.
    config: the network's config; None for the released one.
  """
  part = COMPONENTS[component]
  layout = next(layout for layout in part.layouts if layout.variant in (None, variant))
  config = config or part.config(**({"variant": variant} if variant else {}))
  ours = named_leaves(part.abstract(config, variant))
  found = {}
  for leaf in layout.leaves:
    if leaf.ours not in ours:  # for example a module without a bias
      continue
    shape = tuple(ours[leaf.ours].shape)
    theirs = leaf.their_shape(shape[1:] if leaf.stacked else shape)
    found |= {name: (theirs, DTYPES[component]) for name in leaf.names(shape[0])}
  return found
