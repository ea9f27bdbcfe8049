"""The tasks: `tasks.of("i2v")` is the object that says all of one; `tasks.register` adds another."""

from emv3_jax.tasks.spec import ClipPicture, Given, TaskSpec
from emv3_jax.tasks.table import names, number, numbered, of, register, stored, unregister

__all__ = ["ClipPicture", "Given", "TaskSpec", "names", "number", "numbered", "of", "register",
           "stored", "unregister"]
