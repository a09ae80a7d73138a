# Each target sets up only what it lacks. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# The build of torch to install, such as cpu, as uv's --torch-backend has it; later on the one that .venv/ has.
TORCH ?= $(shell cat $(STAMP) 2>/dev/null)

# dvc does not put its own folder on the PATH of its stages. uv does not read pip's folder of wheels.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_COMPILE_BYTECODE := 1
export PYTHONUNBUFFERED := 1
# Processes of the tests, of one thread each.
WORKERS ?= 2
# The stages that train: those of fresh nets, and a group for each run that others start from.
TRAININGS = $(strip $(shell grep -oE '^  train[-a-z0-9]*' dvc.yaml))
# By default glibc gives large blocks back to the system and takes them anew at each step of a net: page faults.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
# As robustgen/__init__.py, which says why: notebooks load torch before robustgen.
export GOMP_SPINCOUNT ?= 10000

.PHONY: help clone torch env data repro reproduce test lab bench chaos store lock
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "make %-8s %s\n", $$1, $$2}'

clone:
	@test -e .git || { echo "This is no git clone, which DVC needs: instead of a ZIP, get the repository by git clone." >&2; exit 1; }

torch:
	@test ! -e $(STAMP) || test "$$(cat $(STAMP))" = "$(TORCH)" \
		|| { echo ".venv/ was made with TORCH='$$(cat $(STAMP))', not '$(TORCH)'; delete .venv/ to change it." >&2; exit 1; }

env: $(STAMP) ## Create .venv/ with the versions of requirements.txt: make env [TORCH=cpu], 1.9 GB in place of 5.5 with CUDA

$(STAMP): requirements.txt pyproject.toml | torch
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements.txt)
	uv pip install --quiet --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) -r requirements.txt -e .
	echo $(TORCH) >$@

data: clone env ## Fetch MNIST, CIFAR-10 and LPIPS's weights into data/ and check them
	robustgen data
	dvc commit data.dvc   # confirms the lock, and keeps a copy in DVC's cache

SHIPPED = --allow-missing --remote store $(TRAININGS)

repro: clone env ## Run the pipeline: make repro [PROFILE=test|laptop|gpu|paper] [FRESH=1]; FRESH trains even what store/ has
	@mkdir -p .dvc/tmp && exec 9>>.dvc/tmp/make.lock && python -c $$'$(ALONE)' && $(MAKE) --no-print-directory reproduce

# Locks file 9 for the shell, which opened it, and all that it starts: the system gives it back when the last of them ends.
ALONE = import fcntl, sys\ntry: fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: sys.exit("Another make repro runs in this folder; wait until it ends.")

reproduce: data
	$(if $(PROFILE),robustgen profile $(PROFILE))
	$(if $(FRESH),dvc repro --force $(TRAININGS),dvc pull --quiet $(SHIPPED) || dvc pull $(SHIPPED))   # again aloud: --quiet hides the reason, too
	dvc repro
	@for profile in $$(robustgen profile); do echo "The report is results/$$profile/REPORT.md"; done
	@robustgen compare

test: data ## Run the tests: make test [WORKERS=2] [ARGS="-k pgd"]
	OMP_NUM_THREADS=1 pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

lab: data ## Open JupyterLab on notebooks/: make lab [ARGS=--allow-root]
	JUPYTER_CONFIG_PATH=.jupyter:$$JUPYTER_CONFIG_PATH jupyter lab --notebook-dir notebooks $(ARGS)   # .jupyter/ says no to news

bench: data ## Measure the speed claims, each beside its alternative: make bench [ARGS=training]
	python benchmarks/bench.py $(ARGS)

chaos: data ## Kill all that works at random moments, and count what is lost, in minutes: make chaos [ARGS=training]
	python tests/chaos.py $(ARGS)

store: clone env ## Put the checkpoints of the chosen profile into store/, from which others get them
	dvc push --remote store $(TRAININGS)

lock: env ## Renew requirements.txt from pyproject.toml: make lock [ARGS=--upgrade]
	sed -i 's/^torch==[0-9.]*$$/&+cpu/' requirements.txt   # as it stands, the pin would bring in the CUDA build's twenty packages
	uv pip compile pyproject.toml --python-version 3.11 --all-extras --no-header --no-annotate --no-emit-find-links --no-emit-index-url --quiet $(ARGS) -o requirements.txt
	sed -i 's/+cpu//' requirements.txt
