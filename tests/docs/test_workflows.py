"""The workflows and forms of the repository's site: well formed, and true of the Makefile."""

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.docs.pages import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORM = ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml"
TRIGGERS = {"push", "pull_request", "schedule", "workflow_dispatch"}
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: pathlib.Path) -> dict:
  content = yaml.safe_load(path.read_text())
  if True in content:  # YAML 1.1 takes `on` for a truth value
    content["on"] = content.pop(True)
  return content


def steps(path: pathlib.Path) -> list[dict]:
  return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@each_workflow
def test_a_workflow_may_read_and_no_more(path):
  content = read(path)
  assert set(content["on"]) <= TRIGGERS
  assert content["permissions"] == {"contents": "read"}
  assert not any("permissions" in job for job in content["jobs"].values())
  assert "secrets." not in path.read_text()


@each_workflow
def test_jobs_end_and_their_steps_do_one_thing(path):
  for job in read(path)["jobs"].values():
    assert job["runs-on"] and job["timeout-minutes"] <= 360
  for step in steps(path):
    assert ("run" in step) != ("uses" in step), step
    if "uses" in step:
      assert re.fullmatch(r"actions/[\w/-]+@v\d+", step["uses"])
    else:  # values reach a shell by its environment, never as its text
      assert "${{" not in step["run"]


@each_workflow
def test_targets_of_make_are_there(path):
  makefile = (ROOT / "Makefile").read_text()
  wanted = [word for step in steps(path) for word in re.findall(r"^make (\w\S*)", step.get("run", ""))]
  for inputs in (read(path)["on"].get("workflow_dispatch") or {}).get("inputs", {}).values():
    wanted += inputs.get("options", [])
  assert wanted
  for target in wanted:
    if target.startswith("."):
      continue
    assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


def test_the_oldest_python_is_tested():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  oldest = project["requires-python"].removeprefix(">=")
  tested = read(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
  assert tested[0] == oldest and all(isinstance(version, str) for version in tested)


def test_the_form_asks_for_the_report():
  body = {part.get("id"): part for part in read(FORM)["body"]}
  assert body["report"]["validations"]["required"]
  assert "JSON beside the video" in body["report"]["attributes"]["description"]
  for part in body.values():
    assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
    assert part["attributes"].get("label") or part["attributes"].get("value")


def test_actionlint_finds_nothing():
  beside = pathlib.Path(sys.executable).with_name("actionlint")
  program = str(beside) if beside.exists() else shutil.which("actionlint")
  if program is None:
    pytest.skip("actionlint is not installed; the workflow ci runs it")
  found = subprocess.run([program, *map(str, WORKFLOWS)], capture_output=True, text=True)
  assert found.returncode == 0, found.stdout
