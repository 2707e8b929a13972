# Every target makes the virtual environment when it is missing; nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
ROOMS := $(patsubst sbertlab/%/__init__.py,sbertlab.%,$(wildcard sbertlab/*/__init__.py))

.PHONY: lab benchmark test fast long faults speed figures notebooks docs clean

lab: .venv/lab ; $(BIN)/jupyter lab notebooks/00_start_here.ipynb
benchmark: .venv/core ; $(BIN)/python -m sbertlab benchmark
test: .venv/ready ; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not long"
fast: .venv/ready ; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not ui and not long"
long: .venv/ready ; $(BIN)/python -m pytest -m long
faults: .venv/ready ; SBERTLAB_FAULTS=1 $(BIN)/python -m pytest -s tests/faults
speed: .venv/ready ; $(BIN)/python tests/speed.py
figures: .venv/lab ; $(BIN)/python -m sbertlab figures && $(BIN)/python -m sbertlab gallery
notebooks: .venv/ready ; $(BIN)/python tests/notebooks.py
docs: .venv/docs ; $(BIN)/pdoc --output-directory build/docs sbertlab $(ROOMS)
clean: ; rm -rf .venv build dist *.egg-info .work .mypy_cache .ruff_cache && find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each adds to the one before: what measures and draws, what the notebooks need, what tests need. Modules are compiled when
# they are first imported, not all of them now.
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) --editable . matplotlib
	touch $@

.venv/lab: .venv/core
	$(INSTALL) --editable ".[lab]"
	touch $@

.venv/docs: .venv/lab
	$(INSTALL) --editable ".[docs]"
	touch $@

.venv/ready: .venv/lab
	$(INSTALL) --editable ".[test]"
	touch $@
