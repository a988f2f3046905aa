# make demo    train and evaluate GN+WS on a small data set made here, from nothing to pictures
# make test    the tests           make lint    ruff
# STACK=openmmlab takes the upstream distributions of mmengine, mmcv and mmdet, in a second .venv.

PYTHON ?= python3
STACK ?= onedl
VENV ?= $(if $(filter onedl,$(STACK)),.venv,.venv-$(STACK))
BIN = $(VENV)/bin
DEMO ?= work_dirs/demo
DEMO_CONFIG = configs/mask_rcnn_r18_gnws_digits.py

# The tools run from the checkout, with the environment's Python, in scripts too.
RUN = PYTHON=$(BIN)/python PYTHONPATH=.

.PHONY: demo test lint env clean

demo: $(DEMO)/metrics.md
	@echo
	@cat $<
	@echo "pictures: $(DEMO)/curves.png and $(DEMO)/predictions/"

test: $(VENV)/installed
	$(RUN) $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

env: $(VENV)/installed

clean:
	rm -rf $(DEMO) data/digits

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[$(STACK),dev]"
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
	$(RUN) $(BIN)/python tools/report.py $(DEMO_CONFIG) $(DEMO) --out $(DEMO)
