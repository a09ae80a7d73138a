# Each target sets up only what it lacks. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# dvc does not put its own folder on the PATH of its stages. uv does not read pip's folder of wheels.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_COMPILE_BYTECODE := 1
export PYTHONUNBUFFERED := 1
# Processes of the tests, of one thread each.
WORKERS ?= 2
# The stages that train: those of fresh nets, and a group for each run that others start from.
TRAININGS := $(strip $(shell grep -oE '^  train[-a-z0-9]*' dvc.yaml))
# By default glibc gives large blocks back to the system and takes them anew at each step of a net: page faults.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824

.PHONY: help env data repro test lab bench store lock
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "make %-8s %s\n", $$1, $$2}'

env: $(STAMP) ## Create the environment in .venv/ with the versions of requirements.txt

$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements.txt)
	uv pip install --quiet --python $(BIN)/python -r requirements.txt -e .
	touch $@

data: env ## Fetch MNIST and CIFAR-10 into data/ and check them
	robustgen data
	dvc commit --quiet data.dvc   # confirms the lock, and keeps a copy in DVC's cache

repro: data ## Run the pipeline: make repro [PROFILE=test|laptop|gpu|paper] [FRESH=1]; FRESH trains even what store/ has
	$(if $(PROFILE),robustgen profile $(PROFILE))
	$(if $(FRESH),dvc repro --force $(TRAININGS),dvc pull --quiet --allow-missing --remote store $(TRAININGS))
	dvc repro
	@for profile in $$(robustgen profile); do echo "The report is results/$$profile/REPORT.md"; done

test: data ## Run the tests: make test [WORKERS=2] [ARGS="-k pgd"]
	OMP_NUM_THREADS=1 pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

lab: data ## Open JupyterLab on notebooks/
	jupyter lab --notebook-dir notebooks

bench: data ## Measure the speed claims, each beside its alternative: make bench [ARGS=training]
	python benchmarks/bench.py $(ARGS)

store: env ## Put the checkpoints of the chosen profile into store/, from which others get them
	dvc push --remote store $(TRAININGS)

lock: env ## Renew requirements.txt from pyproject.toml: make lock [ARGS=--upgrade]
	sed -i 's/^torch==[0-9.]*$$/&+cpu/' requirements.txt   # as it stands, the pin would bring in the CUDA build's twenty packages
	uv pip compile pyproject.toml --python-version 3.11 --all-extras --no-header --no-annotate --no-emit-find-links --no-emit-index-url --quiet $(ARGS) -o requirements.txt
	sed -i 's/+cpu//' requirements.txt
