"""Mutants: one-line breaks of the project's own code, each of which some test has to notice.

  python -m tests.mutants [--only=WORD] [--jobs=2] [--list] [--check]

`tables/` holds them as data, `mutant.py` says what one is, `run.py` tries them in copies of the tree.
"""
