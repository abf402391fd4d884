# Needs only make and Python 3.11, 3.12 or 3.13 (with pip and venv). `make help` lists the commands.
PY ?= python3 python3.13 python3.12 python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Two threads on the small networks of this book are no faster on an idle machine, and far slower on a busy one.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= agg
# A python3 kernel installed for the user must not be taken for the one of the environment.
export JUPYTER_PREFER_ENV_PATH = 1
NB ?=
PARAMETERS ?=
CORES ?= all
GPUS ?= 1
INTO ?= ../lipnb-offline
NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300

.PHONY: help install book site browse test unit nbval bench check lint types pairs workflows tree reproduce gather sync run lock fmt clean

help:
	@echo "make book       execute every chapter, build _build/html/index.html"
	@echo "make site       the pages from the stored outputs, warnings as errors"
	@echo "make browse     open the built pages in headless Chromium (if there is one)"
	@echo "make test       unit tests, then the stored notebooks run again and compared"
	@echo "make check      lint, format, types, spelling, notebook pairs, workflow files"
	@echo "make bench      the benchmarks"
	@echo "make reproduce EXPERIMENT=name   the full-size run of one experiment (CORES=n GPUS=n)"
	@echo "make gather INTO=folder   all that the book needs on a machine without a network"
	@echo "make run NB=NN_name     execute a chapter and store its outputs; make sync NB=NN_name: inputs only"
	@echo "make lock       pin the dependencies again; make fmt: format; make clean: remove what was built"

install: $(VENV)/.stamp
$(VENV)/.stamp: requirements.txt requirements-uv.txt pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; for p in $(PY); do \
	    if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; then found=$$p; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "lipnb needs Python 3.11, 3.12 or 3.13; tried $(PY): `python3 --version 2>&1`." >&2; \
	    echo "Install one of them, or name one: make install PY=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  echo "Creating $(VENV) with `$$found --version`"; $$found -m venv --clear $(VENV); \
	fi
	@echo "Installing the pinned packages into $(VENV) (minutes when nothing is cached; about 6 GB, mostly PyTorch with CUDA)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install `test -t 2 || echo -q` --require-hashes --compile-bytecode -r requirements.txt
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $@

book: install
	$(BIN)/python scripts/book.py book $(PARAMETERS)
site: install
	$(BIN)/python scripts/book.py site

# the built pages in a headless browser, if there is one
browse: install
	$(BIN)/python scripts/check_browser.py _build/html

test: unit nbval
unit: install
	$(BIN)/pytest -q -n 2 --dist loadfile -p no:nbval
nbval: install
	MPLBACKEND= $(BIN)/pytest -q -n 2 --dist loadfile $(NBVAL) notebooks
	@$(BIN)/python scripts/nb.py marked

bench: install
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

check: lint types pairs workflows tree
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check . $(wildcard notebooks/*.ipynb)
	$(BIN)/codespell
	$(BIN)/interrogate -q lipnb
types: install
	$(BIN)/mypy
pairs: install
	$(BIN)/python scripts/nb.py check
workflows: install
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor -q --offline .github/workflows
tree: install
	$(BIN)/python scripts/check_tree.py

reproduce: install
	@test -n "$(EXPERIMENT)" || { echo "Say which: make reproduce EXPERIMENT=toy (the experiments are the reproduce_* rules of workflows/Snakefile)" >&2; exit 1; }
	$(BIN)/snakemake -s workflows/Snakefile --cores $(CORES) --resources gpu=$(GPUS) --keep-going --rerun-incomplete reproduce_$(subst -,_,$(EXPERIMENT))

gather: install
	$(BIN)/python scripts/gather.py $(INTO) $(if $(CIFAR10),--cifar10) $(if $(INCEPTION),--inception $(INCEPTION))

sync: install
	$(BIN)/python scripts/nb.py sync $(NB)
run: install
	$(BIN)/python scripts/nb.py run $(NB)

# requirements.txt and environment.yml both come from pyproject.toml; tests/book/test_environment.py says when they part.
lock: install
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header pyproject.toml --group dev --extra book --extra workflow --extra gan -o requirements.txt
	echo 'uv==0.13.9' | $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header - -o requirements-uv.txt
	$(BIN)/python scripts/environment.py
fmt: install
	$(BIN)/ruff check --fix-only -q lipnb scripts tests benchmarks book
	$(BIN)/ruff format -q .
	$(BIN)/jupytext -q --pipe "$(abspath $(BIN))/ruff format -q --stdin-filename cell.py -" notebooks/[0-9]*.md
	$(BIN)/python scripts/nb.py sync
clean:
	rm -rf _build .mypy_cache .ruff_cache .pytest_cache
