# The two commands: `make run` and `make test`. Each does its own set-up.
PYTHON ?= python3.11
SITES ?=
CONFIG ?=
ARGS ?=
JOBS ?= 2
BUILDER ?= docker
BUILD_ARGS ?=
IMAGES ?= data receive validate physics train evaluate report export promote restore
VENV := .venv
SERVE := .venv-serve
BIN := $(VENV)/bin
PIP := -qq --disable-pip-version-check
export DVC_NO_ANALYTICS = 1

.PHONY: run test lint format setup compile lock images stop clean help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: setup ## the whole factory on this machine; SITES=sites.yaml for your own DICOM, CONFIG=file.yaml for other parameters
	@$(BIN)/mira run $(if $(SITES),--sites "$(SITES)") $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)

# each file's tests run in one of JOBS processes; one thread each, or they hinder each other
test: setup lint ## lint, then every test; ARGS="-k name" for some, JOBS=0 for one process
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: setup ## ruff, mypy, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

setup: $(VENV)/.ready $(SERVE)/.ready ## virtual environments from the lock files

# one recipe makes both environments side by side: the slower one decides
$(VENV)/.ready: requirements/main.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is missing: apt-get install python3.11-venv (Debian), or pyenv install 3.11"; exit 2; }
	@echo "setting up $(VENV) and $(SERVE) (about three minutes, once)"
	@$(MAKE) --no-print-directory $(SERVE)/.ready & \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install $(PIP) --no-deps -r requirements/main.lock && \
	$(BIN)/python -m pip install $(PIP) --no-deps --no-build-isolation -e . && \
	touch $@ && wait

$(SERVE)/.ready: requirements/serve.lock
	@test -x $(SERVE)/bin/python || $(PYTHON) -m venv $(SERVE)
	@$(SERVE)/bin/python -m pip install $(PIP) --no-deps -r requirements/serve.lock
	@touch $@

compile: setup ## write pipelines/compiled/*.yaml
	@$(BIN)/python -m pipelines.compile

lock: ## resolve pyproject.toml anew into requirements/main.lock (in a fresh environment)
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install $(PIP) "torch==2.13.0" && .venv-lock/bin/python -m pip install $(PIP) -e ".[dev]"
	@{ sed -n '/^#/p' requirements/main.lock; .venv-lock/bin/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > requirements/main.lock.new
	@mv requirements/main.lock.new requirements/main.lock && rm -rf .venv-lock

images: ## the step images, one per extra; BUILDER=podman, IMAGES="data train" for some, BUILD_ARGS="--build-arg BASE=..."
	@registry=$$(sed -n 's/^REGISTRY = "\(.*\)"/\1/p' components/kubeflow.py) && \
	version=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) && for extra in $(IMAGES); do \
	$(BUILDER) build -f deploy/Dockerfile --build-arg EXTRA=$$extra $(BUILD_ARGS) -t $$registry/python-$$extra:$$version . || exit; done

stop: ## stop the local Triton servers of every workspace
	@for workspace in runs/*/; do test ! -d "$$workspace" || $(BIN)/mira serve --stop --workspace "$$workspace"; done

clean: ## remove everything that runs made (runs/, the served repository); sources and environments stay
	@rm -rf runs triton_repo/models
