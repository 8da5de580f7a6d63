# Two commands do everything: `make demo` and `make test`. They need Python 3.10 or newer and a package index.
PYTHON ?= python3
RUN = @exec $(PYTHON) tools/bootstrap.py

.PHONY: help demo serve lint test test-all clean

help:
	@echo "make demo      every control on one contact sheet, in output/ (ARGS='--image FILE')"
	@echo "make serve     ComfyUI with this pack and the hosted APIs, until Ctrl-C (ARGS='--port N')"
	@echo "make test      linters, types and tests on the newest known ComfyUI (ARGS go to pytest)"
	@echo "make test-all  the same on every supported ComfyUI"
	@echo "make lint      linters and types"
	@echo "make clean     remove .venv, .hosts and caches; output/ is kept"
	@echo "COMFYUI_PATH=FOLDER uses your own ComfyUI, COMFYUI_PYTHON=PROGRAM its Python."

demo serve lint test test-all:
	$(RUN) $@ $(ARGS)

clean:
	rm -rf .venv .hosts .mypy_cache .ruff_cache .hypothesis .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
