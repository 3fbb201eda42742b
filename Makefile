# Each verb builds its own virtual environment; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint readme notebooks docs matrix rivals clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## the main job: train, sample, plot, in demo/
	$(BIN)/jaxllc demo --out demo

test: $(VENV)/.installed  ## the unit tests
	$(BIN)/pytest -n 2 -m "not slow"

test-all: $(VENV)/.installed  ## and the long ones
	$(BIN)/pytest -n 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

readme: $(VENV)/.installed  ## run the examples of the README, the code of the pages, and the report in a browser where there is one
	$(BIN)/pytest -n 2 tests/test_readme.py tests/test_pages.py tests/test_html_report.py -m "slow or not slow"

notebooks: $(VENV)/.installed  ## run the notebooks in their quick mode; what they print and draw is in notebooks/rendered/
	$(BIN)/python docs/_render.py

docs: $(VENV)/.installed  ## the site, in site/; warnings are errors
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

PYTHONS ?= python3.11 python3.12 python3.13
PACKAGES ?= oldest newest
TESTS ?= $(addprefix tests/test_,$(addsuffix .py,extras diagnostics plots checkpoints checkpoints_nnx safetensors html_report stream \
	estimate trajectory store sampler_states language_models))

matrix:  ## TESTS of the sdist against the installed wheel, on each of PYTHONS with the oldest and the newest PACKAGES
	$(PYTHON) tests/matrix.py --pythons $(PYTHONS) --packages $(PACKAGES) -- $(TESTS)

rivals:  ## what the benchmarks compare with, each in an environment of its own under .rivals/
	$(PYTHON) -m venv .rivals/devinterp1
	.rivals/devinterp1/bin/pip install --quiet torch==2.13.0 devinterp==1.3.2
	$(PYTHON) -m venv .rivals/devinterp2
	.rivals/devinterp2/bin/pip install --quiet torch==2.13.0 devinterp==2.0.1
	$(PYTHON) -m venv .rivals/canonical
	.rivals/canonical/bin/pip install --quiet torch==2.13.0 numpy pandas tqdm
	.rivals/canonical/bin/pip install --quiet --no-deps --ignore-requires-python canonical-interp==0.2.7

clean:
	rm -rf $(VENV) .rivals site demo llc.zarr llc.png .pytest_cache .ruff_cache .jax_cache
