# Each target sets up what it needs in .venv; nothing but Python 3.10+ and a package index is assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ifeq ($(OS),Windows_NT)
BIN    := $(VENV)/Scripts
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-unit test-ray test-recipes lint docs fuzz soak compare-faults bench clean

FUZZ_SECONDS ?= 300
SOAK_SECONDS ?= 600

demo: $(VENV)/.demo ## embed real documents through LangChain and LlamaIndex with the bundled server
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev ## every test, those against a real llama.cpp server included
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-unit: $(VENV)/.dev ## the pure tests, between two thoughts
	$(BIN)/python -m pytest tests/unit -m "not slow"

test-ray: .venv-ray/.ready ## on a real Ray of two workers, one of which is killed, and the driver too
	$(subst $(VENV),.venv-ray,$(BIN))/python -m pytest tests/ray

test-recipes: .venv-recipes/.ready ## every recipe of docs/RECIPES.md, with the real package; PySpark needs Java
	$(subst $(VENV),.venv-recipes,$(BIN))/python -m pytest tests/recipes

lint: $(VENV)/.dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv-docs/.ready ## the documentation site, in site/; a dead link or a warning is an error
	$(subst $(VENV),.venv-docs,$(BIN))/python scripts/build_site.py

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
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[langchain,llama-index,local]"
	touch $@

.venv-docs/.ready: docs/requirements.txt
	$(PYTHON) -m venv .venv-docs
	$(subst $(VENV),.venv-docs,$(BIN))/python -m pip install --quiet -r docs/requirements.txt
	touch $@

.venv-peers/.ready: pyproject.toml benchmarks/faults/requirements.txt
	$(PYTHON) -m venv .venv-peers
	$(subst $(VENV),.venv-peers,$(BIN))/python -m pip install --quiet -e ".[langchain,llama-index]" -r benchmarks/faults/requirements.txt
	touch $@

.venv-ray/.ready: pyproject.toml tests/ray/requirements.txt
	$(PYTHON) -m venv .venv-ray
	$(subst $(VENV),.venv-ray,$(BIN))/python -m pip install --quiet -e ".[cli,ray]" -r tests/ray/requirements.txt
	touch $@

.venv-recipes/.ready: pyproject.toml tests/recipes/requirements.txt
	$(PYTHON) -m venv .venv-recipes
	$(subst $(VENV),.venv-recipes,$(BIN))/python -m pip install --quiet -e ".[cli,ray]" -r tests/recipes/requirements.txt
	touch $@

.venv-bench/.ready: pyproject.toml benchmarks/speed/requirements.txt scripts/make_minilm_gguf.py
	$(PYTHON) -m venv .venv-bench
	$(subst $(VENV),.venv-bench,$(BIN))/python -m pip install --quiet -e ".[langchain,llama-index,local]" -r benchmarks/speed/requirements.txt
	$(subst $(VENV),.venv-bench,$(BIN))/python scripts/make_minilm_gguf.py
	touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -e ".[fuzz]"
	touch $@

$(VENV)/.dev: pyproject.toml scripts/make_minilm_gguf.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	$(BIN)/python scripts/make_minilm_gguf.py
	touch $@ $(VENV)/.demo
