# Two commands do everything on a fresh machine: `make dashboard` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: dashboard test test-fast lint coverage mutants clean

$(VENV)/.app: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: $(VENV)/.app
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

dashboard: $(VENV)/.app
	$(BIN)/streamlit run dashboard/app.py

# A file's tests run one after the other; files are shared out among the processors, in the order of tests/work_order.py.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not browser"

# Types are checked for the Python that runs; CI has the lowest one. NumPy's types for 3.12 cannot be read as 3.11's.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --python-version $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# Which lines of lag_core no test runs; fails below 92 %. Quicker on Python 3.12 or newer.
coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 COVERAGE_CORE=sysmon $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov

# Do the tests notice a changed program? For maintainers; a quarter of an hour.
mutants: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[mutants]"
	$(BIN)/python benchmarks/mutants.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache artifacts
