"""Sphinx's settings: the pages of this folder, and an API reference of whatever the package holds.

  make docs  # -> build/docs/index.html; a warning is an error

The pages of the reference are written when a build begins, one a room: a module that is new, moved
or gone needs no change here.
"""

import enum
import functools
import importlib.util
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import api_pages  # noqa: E402  (beside this file)
import docstrings  # noqa: E402

import emv3_jax  # noqa: E402

project = "emv3-jax"
author = "the authors of emv3-jax"
release = emv3_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["evidence", "_build"]

html_theme = "alabaster"  # comes with Sphinx; no fonts and scripts from elsewhere
html_theme_options = {"description": "A portrait, a voice and a prompt become a talking video",
                      "fixed_sidebar": True, "page_width": "1100px", "sidebar_width": "250px"}
smartquotes = False
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = None  # MathJax would come from a server

myst_heading_anchors = 4

# Types in signatures that are names of fields elsewhere (`bytes`), links out of the pages (LICENSE).
suppress_warnings = ["ref.python"]

default_role = "code"  # `name` in a docstring
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # those of other libraries have other rules
autodoc_mock_imports = [name for name in api_pages.OPTIONAL if not importlib.util.find_spec(name)]


# What jax.typing.ArrayLike is made of, as signatures spell it out.
_ARRAY_LIKE = re.compile(
    r"\S*Array \| \S*ndarray \| \S*bool_? \| \S*number \| bool \| int \| float \| complex")


def short_signature(app, what, name, obj, options, signature, returned):
  return tuple(text and _ARRAY_LIKE.sub("ArrayLike", text) for text in (signature, returned))


def skips(app, what, name, obj, skip, options):
  """Leaves out fields of classes: the signature has them, and `Attributes` says what they are."""
  is_field = not callable(obj) and not isinstance(obj, (property, enum.Enum, functools.cached_property))
  return True if what == "class" and is_field else None


def setup(app):
  app.connect("builder-inited", lambda app: api_pages.write(DOCS / "api"))
  app.connect("autodoc-process-docstring", docstrings.process)
  app.connect("autodoc-process-signature", short_signature)
  app.connect("autodoc-skip-member", skips)
  return {"parallel_read_safe": True}
