# Each target sets a fresh machine up by itself, in .venv. Needs Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
TINY := emv3_jax/assets/tiny

.PHONY: demo test judge soak plan-gpu parity bench lint clean

.venv/.core: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.test: pyproject.toml .venv/.core
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,plan-tpu]'
	@touch $@

# An environment of its own: where no GPU is, its packages make every start of JAX complain.
.venv/plan_gpu/.done: pyproject.toml
	$(PYTHON) -m venv .venv/plan_gpu
	.venv/plan_gpu/bin/pip install --quiet --disable-pip-version-check --editable '.[test,plan-gpu]'
	@touch $@

.venv/.parity: pyproject.toml .venv/.core
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,parity]'
	@touch $@

demo: .venv/.core  ## the main job on the embedded default -> outputs/demo/talking.mp4
	$(BIN)/python run_sample.py --config=configs/tiny.py --image=$(TINY)/portrait.png \
	  --audio=$(TINY)/speech.wav --face_box="$$(cat $(TINY)/face_box.txt)" \
	  --prompt="$$(cat $(TINY)/prompt.txt)" --out=outputs/demo/talking.mp4

test: .venv/.test  ## style and tests, no network
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

judge: .venv/.core  ## the small default against docs/evidence/default.json; JUDGE_FLAGS=--write renews it
	$(BIN)/python scripts/judge_tiny.py $(JUDGE_FLAGS)

soak: .venv/.test  ## the long checks; figures go to docs/evidence/soak.json
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[parity]'
	$(BIN)/python -m pytest --slow -m slow --evidence=docs/evidence/soak.json

plan-gpu: .venv/plan_gpu/.done  ## programs for GPUs that are not there; figures go to docs/evidence/plan_gpu.json
	.venv/plan_gpu/bin/python -m pytest --slow tests/plan -k h100 --evidence=docs/evidence/plan_gpu.json

parity: .venv/.parity  ## the networks live against diffusers' and transformers' modules
	$(BIN)/python -m pytest --parity tests/parity

bench: .venv/.parity  ## CPU speed against diffusers' modules; figures go to docs/evidence/speed.json
	$(BIN)/python -m benchmarks --json=docs/evidence/speed.json

lint: .venv/.test
	$(BIN)/ruff check .

clean:
	rm -rf .venv build outputs *.egg-info
