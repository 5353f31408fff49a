# Two commands on a fresh machine: `make demo` and `make test`.
VENV ?= $(or $(CLIP_EDGE_VENV),.venv)
export CLIP_EDGE_VENV := $(VENV)
export MAKECMDGOALS

.PHONY: help demo install dev test lint native clean

help:
	@echo "make demo     install into $(VENV) and run the whole road, from pictures to a measured model"
	@echo "make install  install into $(VENV): the package with all extras"
	@echo "make test     the whole suite: style, types, the C library, tests (installs what they need)"
	@echo "make lint     style and types only"
	@echo "make native   build and test the C library (needs cmake and ninja)"
	@echo "make clean    remove $(VENV) and what tools have cached"
	@echo "PYTHON=/path/to/python names the interpreter, VENV=folder the environment"

demo: $(VENV)/.installed
	@$(VENV)/bin/clip-edge demo

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

# The stamps say which versions are in there; a change of the lists installs again.
$(VENV)/.installed: pyproject.toml constraints.txt scripts/install
	@scripts/install
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt scripts/install
	@scripts/install --dev
	@touch $@ $(VENV)/.installed

test: lint native
	@scripts/test

# The C library: built and tested as it ships, and under the sanitizers; where there is clang, by libFuzzer too.
native:
	@if command -v cmake >/dev/null && command -v ninja >/dev/null; then scripts/native host tsan $$(command -v clang++ >/dev/null && echo fuzz || echo asan); \
	else echo "cmake or ninja is missing: the C library is neither built nor tested" >&2; fi

lint: dev
	@scripts/lint
	@scripts/typecheck

clean:
	rm -rf $(VENV) .typing .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
