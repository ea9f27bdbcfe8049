"""Runs the code cells of a notebook in order, in one namespace: python -m tests.docs.run_notebook FILE

Every cell that ends in an expression prints what it is, as a notebook would show it.
"""

import ast
import json
import pathlib
import sys


def main(path: str) -> None:
  names = {"__name__": "__main__"}
  for number, cell in enumerate(json.loads(pathlib.Path(path).read_text())["cells"]):
    if cell["cell_type"] != "code":
      continue
    tree = ast.parse("".join(cell["source"]), f"cell {number}")
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), names)
    if last is not None:
      value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
      if value is not None:
        sys.stdout.write(f"{value!r}\n")


if __name__ == "__main__":
  main(sys.argv[1])
