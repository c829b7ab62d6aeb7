# Everything runs in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-forecast install base test test-slow test-pandas3 verify-tsfm bench docs lint clean
.DEFAULT_GOAL := demo

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("recipeline needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

# The base alone: what `pip install recipeline` brings.
$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

# The base, every extra, and the tools of the tests.
$(VENV)/.all: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[all,dev]'
	touch $(VENV)/.base $(VENV)/.spline $@

base: $(VENV)/.base
install: $(VENV)/.all

# Train on real data, look at the report, predict: embedded defaults only, no service.
demo: $(VENV)/.base
	$(BIN)/python recipes/data/write.py
	$(BIN)/python main.py train --recipe-file recipes/quickstart/quickstart.yaml
	$(BIN)/python main.py batch-inference --run-id latest --input recipes/data/breast_cancer_new.csv --output demo/predictions.csv --overwrite
	@echo; echo "demo/predictions.csv:"; head -n 4 demo/predictions.csv

# Weekly CO2 with its gaps: raw rows to report and forecast, under a minute. Needs torch: the extra `spline`.
$(VENV)/.spline: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[spline]'
	touch $(VENV)/.base $@

demo-forecast: $(VENV)/.spline
	$(BIN)/python recipes/data/write.py
	$(BIN)/python main.py train --recipe-file recipes/spline/co2_forecast.yaml
	$(BIN)/python main.py batch-inference --run-id latest --name co2_forecast --output demo/forecast.csv --overwrite
	@echo; echo "demo/forecast.csv:"; head -n 4 demo/forecast.csv

test: $(VENV)/.all
	$(BIN)/python -m pytest -n auto --dist loadgroup -m 'not slow' $(PYTEST_ARGS)

# The core once more with pandas 3; Feast keeps everything else on pandas 2. CausalML, which one recipe needs, is left out.
CORE_TESTS := schema preprocessing tasks evaluators splitters metrics loaders artifact doors batch
.venv-pandas3/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-pandas3
	grep -v '^pandas==' constraints.txt > .venv-pandas3/constraints.txt
	.venv-pandas3/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-pandas3/constraints.txt 'pandas==3.*' --editable '.[serving,boosting,dev]'
	touch $@

test-pandas3: .venv-pandas3/.core
	.venv-pandas3/bin/python -m pytest -n auto --dist loadgroup -m 'not slow' -k 'not coupon_x_learner' $(PYTEST_ARGS) $(CORE_TESTS:%=tests/test_%.py)

test-slow: $(VENV)/.all
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# The forecasts of foundation models: tests, contract suite and the bench's budgets, with a summary in JSON.
verify-tsfm: $(VENV)/.all
	$(BIN)/python tests/plugins/tsfm/verify.py

bench: $(VENV)/.all
	$(BIN)/python -m bench

# Refresh the generated parts of the reference.
docs: $(VENV)/.all
	$(BIN)/python docs/generate.py

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .venv-pandas3 demo dist build
