# Every target sets up what it needs: python3 (3.11+), git and make are enough.
PYTHON  ?= python3
VENV    ?= .venv
TESTERS ?= 2
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready

.PHONY: setup demo test docs soak gpu lint format clean

setup: $(READY)  ## virtual environment, pinned requirements, the package

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moco needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

demo: setup  ## pre-train on the built-in pictures, probe, evaluate, report: 5 to 8 minutes on two cores
	$(BIN)/moco pretrain --recipe shapes --data shapes --out runs/demo --overwrite
	$(BIN)/moco linear runs/demo
	$(BIN)/moco evaluate runs/demo
	$(BIN)/moco report runs/demo
	@echo
	@echo "Next: your own images:   $(BIN)/moco pretrain --data FOLDER --out runs/mine"
	@echo "      Imagenette:        $(BIN)/moco download imagenette --size 160, then the README's commands"
	@echo "      the views:         $(BIN)/moco preview --data shapes --recipe shapes"

test: setup  ## every test but the soak, in TESTERS processes, a file whole in one of them
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

docs: setup  ## the pages under docs/ as HTML, strictly: a broken link is an error
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

soak: setup  ## fifty kill -9 and resume cycles compared to the bit, thirty of packing, thirty of linear
	MOCO_SOAK=50 $(BIN)/python -m pytest --timeout 3600 tests/test_crash.py tests/data/test_pack_crash.py tests/commands/test_linear_crash.py

gpu: setup  ## what only a CUDA GPU can show: marked tests, bench, a resumed run; one JSON and one table
	$(BIN)/python benchmarks/gpu.py $(if $(DATA),--data $(DATA))

lint: setup  ## format, lint, types: what CI runs
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

clean:
	rm -rf $(VENV) build dist src/*.egg-info
