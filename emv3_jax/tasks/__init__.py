"""The tasks: `tasks.of("i2v")` returns the object that describes one; `tasks.register` adds another."""

from emv3_jax.tasks.spec import ConditionInput, ReferenceImage, TaskSpec
from emv3_jax.tasks.table import by_number, names, number, of, precomputed, register, unregister

__all__ = ["ConditionInput", "ReferenceImage", "TaskSpec", "by_number", "names", "number", "of",
           "precomputed", "register", "unregister"]
