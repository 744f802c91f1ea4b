# Every command a person or a machine needs. `make help` lists them.
PYTHON ?= python3
VARIANT ?= cpu
TORCH := 2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(VARIANT)
# Two processes, a file each, of one thread each: more threads than cores wait for each other. In the order of folders,
# since the files with the fewest tests, those of whole programs, take the longest and are not to be left for the end.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-deep gpu-check check format bench docs protos lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make .venv and install everything into it (skipped when nothing changed)

# torch first, with its own dependencies, since which packages its build needs depends on the registry; then exactly
# what is locked; then this project in editable mode. See requirements/lock.py for why --no-deps.
$(READY): requirements/$(VARIANT).txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/$(VARIANT).txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	rm -f $(VENV)/.ready-*
	touch $@

quickstart: $(READY) ## the whole path on MovieLens-100K, from its log to recommendations over gRPC
	$(BIN)/python examples/quickstart.py

test: $(READY) ## run the tests
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} $(PYTEST) -m "not deep"

test-deep: $(READY) ## run all tests, the slow and thorough ones too
	HYPOTHESIS_PROFILE=deep $(PYTEST) --timeout 3600

gpu-check: $(READY) ## on a machine with a GPU (VARIANT=gpu): its tests, then what training and search do there
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not deep" -k "cuda or log_sums or fused"
	$(BIN)/python -m benchmarks.gpu --record

check: $(READY) ## format, lint, types, import contracts, generated stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	cd protos && ../$(BIN)/buf lint

format: $(READY) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## run every benchmark in its quick form
	@for path in benchmarks/[a-z]*.py; do \
		name=$$(basename $$path .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; \
	done

docs: $(READY) ## build the documentation site into build/site, strictly
	$(BIN)/python docs/build_site.py

protos: $(READY) ## regenerate serving/v1 from protos/
	$(BIN)/python protos/generate.py

lock: $(READY) ## resolve requirements/cpu.txt and gpu.txt again
	$(BIN)/python requirements/lock.py

clean: ## remove .venv, caches and what the quickstart wrote
	rm -rf $(VENV) work build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
