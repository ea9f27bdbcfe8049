"""Seeded inputs of any kind for all commands: each ends in a message or in what was asked for.

  python -m tests.fuzz --seed=3 --count=100      many inputs
  python -m tests.fuzz --seed=3 --first=17 --count=1 --keep=DIR      one of them again

An input is a function of seed and index alone. The commands run one after another in a process of their own
that imports once; what they may end in is told in `tests.fuzz.verdict`.
"""
