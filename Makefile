# make demo    train and evaluate GN+WS on a small data set made here, from nothing to pictures
# make quick   the tests that take no time: within 90 seconds on 2 cores
# make test    all tests
# make lint    format, lint and types: ruff, mypy
# make docs    the documentation site, in site/
# STACK=openmmlab takes the upstream distributions of mmengine, mmcv and mmdet, in a second .venv.
# WORKERS=N runs the tests in N processes.

PYTHON ?= python3
STACK ?= onedl
VENV ?= $(if $(filter onedl,$(STACK)),.venv,.venv-$(STACK))
BIN = $(VENV)/bin
WORKERS ?= 2
DEMO ?= work_dirs/demo
DEMO_CONFIG = configs/mask_rcnn_r18_gnws_digits.py

# The tools run from the checkout, with the environment's Python, in scripts too.
RUN = PYTHON=$(BIN)/python PYTHONPATH=.
# One thread for each of the processes that share the cores.
PYTEST = OMP_NUM_THREADS=1 $(RUN) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo quick test lint docs env clean

demo: $(DEMO)/metrics.md
	@echo
	@cat $<
	@echo "all of it, with pictures: $(DEMO)/report.html"

quick: $(VENV)/installed
	$(PYTEST) -m "not slow and not e2e" $(PYTEST_ARGS)

test: $(VENV)/installed
	$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(RUN) $(BIN)/python -m mkdocs build --strict

env: $(VENV)/installed

clean:
	rm -rf $(DEMO) data/digits site

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[$(STACK),dev,docs]"
	@touch $@

data/digits/digits.json: tools/make_digits.py $(wildcard mmws/data/digits/*.py) | $(VENV)/installed
	$(RUN) $(BIN)/python tools/make_digits.py --out data/digits
	@touch $@

# An interrupted training goes on from its last checkpoint; other data or settings start anew.
$(DEMO)/started: data/digits/digits.json $(DEMO_CONFIG) configs/mask_rcnn_r18_gnws_narrow.py
	rm -rf $(DEMO)
	@mkdir -p $(DEMO)
	@touch $@

$(DEMO)/trained: $(DEMO)/started
	$(RUN) tools/dist_train.sh $(DEMO_CONFIG) 2 --work-dir $(DEMO) --resume
	@touch $@

$(DEMO)/metrics.md: $(DEMO)/trained
	$(RUN) $(BIN)/python tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO)/last_checkpoint)" --work-dir $(DEMO)
	$(RUN) $(BIN)/python tools/report.py $(DEMO_CONFIG) $(DEMO) --out $(DEMO) > /dev/null
