# Each target sets a fresh machine up by itself: in .venv, or, for a PYTHON of another name than python3,
# in a folder of its own within it (`make test PYTHON=python3.13`). Needs Python 3.11 or newer.
PYTHON ?= python3
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ENV := $(if $(filter python3,$(PYTHON)),.venv,.venv/python$(VERSION))
BIN := $(ENV)/bin
PIP_INSTALL := pip install --quiet --disable-pip-version-check
TINY := emv3_jax/assets/tiny
SHOW_VERSIONS := $(BIN)/python -c 'import importlib.metadata as m, platform; print("Python", \
  platform.python_version(), *(f"{name} {m.version(name)}" for name in ("jax", "flax", "numpy", "av")))'

.PHONY: demo web test test-web judge soak mutants plan-gpu parity gpu bench lint types docs clean
.PRECIOUS: %/.core %/.web %/.test %/.parity %/.docs

%/.core: pyproject.toml
	$(PYTHON) -m venv $*
	$*/bin/$(PIP_INSTALL) --editable .
	@touch $@

%/.web: pyproject.toml %/.core
	$*/bin/$(PIP_INSTALL) --editable '.[web]'
	@touch $@

%/.test: pyproject.toml %/.core
	$*/bin/$(PIP_INSTALL) --editable '.[test,plan-tpu]'
	@touch $@

%/.parity: pyproject.toml %/.core
	$*/bin/$(PIP_INSTALL) --editable '.[test,parity]'
	@touch $@

%/.docs: pyproject.toml %/.core
	$*/bin/$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

# An environment of its own: where no GPU is, its packages make every start of JAX complain.
%/plan_gpu/.done: pyproject.toml
	$(PYTHON) -m venv $*/plan_gpu
	$*/plan_gpu/bin/$(PIP_INSTALL) --editable '.[test,plan-gpu]'
	@touch $@

# For PyTorch's parts: GPU_EXTRAS=cuda12,parity
GPU_EXTRAS ?= cuda12
%/gpu/.done: pyproject.toml
	$(PYTHON) -m venv $*/gpu
	$*/gpu/bin/$(PIP_INSTALL) --editable '.[$(GPU_EXTRAS)]'
	@touch $@

demo: $(ENV)/.core  ## the main job on the embedded default -> outputs/demo/talking.mp4
	$(BIN)/python run_sample.py --config=configs/tiny.py --image=$(TINY)/portrait.png \
	  --audio=$(TINY)/speech.wav --face_box="$$(cat $(TINY)/face_box.txt)" \
	  --prompt="$$(cat $(TINY)/prompt.txt)" --out=outputs/demo/talking.mp4

web: $(ENV)/.web  ## the page, on 127.0.0.1; WEB_FLAGS="--config=... --checkpoint=..." for another model
	$(BIN)/python -m emv3_jax.web $(WEB_FLAGS)

test: $(ENV)/.test  ## style, types and tests, no network
	@$(SHOW_VERSIONS)
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-web: $(ENV)/.test  ## the page in Chromium and under load; figures go to docs/evidence/web.json
	$(BIN)/python -m pytest --slow tests/web --pictures=docs/images --evidence=docs/evidence/web.json

judge: $(ENV)/.core  ## the small default against docs/evidence/default.json; JUDGE_FLAGS=--write renews it
	$(BIN)/python scripts/judge_tiny.py $(JUDGE_FLAGS)

soak: $(ENV)/.test  ## the long checks, the networks as users compile them; figures go to docs/evidence/{soak,jobs}.json
	$(BIN)/$(PIP_INSTALL) --editable '.[parity]'
	$(BIN)/python -m pytest --slow -m slow --ignore=tests/jobs --evidence=docs/evidence/soak.json
	$(BIN)/python -m pytest --slow -m slow tests/jobs --evidence=docs/evidence/jobs.json
	$(BIN)/python -m pytest --optimized tests/models tests/sampling/test_golden_runs.py

mutants: $(ENV)/.parity  ## breaks of the code, each of which some test has to notice; docs/evidence/mutants.json
	$(BIN)/python -m tests.mutants --jobs=2 --evidence=docs/evidence/mutants.json

plan-gpu: $(ENV)/plan_gpu/.done  ## programs for GPUs that are not there; figures go to docs/evidence/plan_gpu.json
	$(ENV)/plan_gpu/bin/python -m pytest --slow tests/plan -k h100 --evidence=docs/evidence/plan_gpu.json

parity: $(ENV)/.parity  ## the networks live against diffusers' and transformers' modules
	$(BIN)/python -m pytest --parity tests/parity tests/verify

gpu: $(ENV)/gpu/.done  ## at most 8 minutes on one GPU, beside PyTorch's where that is; GPU_FLAGS=--parts=...
	$(ENV)/gpu/bin/python -m benchmarks.gpu --json=docs/evidence/gpu.json $(GPU_FLAGS)

bench: $(ENV)/.parity  ## CPU speed against diffusers' modules; figures go to docs/evidence/speed.json
	$(BIN)/python -m benchmarks --json=docs/evidence/speed.json

lint: $(ENV)/.test
	$(BIN)/ruff check .

types: $(ENV)/.test  ## types of the package, statically; shapes are checked by the tests
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(ENV)/.docs  ## pages of docs/ and the API as a site -> build/docs/index.html; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

clean:
	rm -rf .venv build outputs docs/api *.egg-info
