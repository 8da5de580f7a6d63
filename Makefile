# Two commands do everything: `make demo` and `make test`. They need Python 3.10 or newer and a package index.
PYTHON ?= python3
RUN = @exec $(PYTHON) tools/bootstrap.py

TIERS = library library-oldest host host-oldest server api pool

.PHONY: help demo serve pool lint test test-all test-gpu soak lock clean $(TIERS:%=test-%)

help:
	@echo "make demo      every control on one contact sheet, in output/ (ARGS='--image FILE')"
	@echo "make serve     ComfyUI with this pack and the hosted APIs, until Ctrl-C (ARGS='--port N')"
	@echo "make pool      a gateway, RabbitMQ, two ComfyUIs and their workers on this machine (ARGS='--hosts N')"
	@echo "make test      linters, types and tests on the newest known ComfyUI (ARGS go to pytest)"
	@echo "make test-all  the same on every supported ComfyUI"
	@echo "make test-gpu  library and host tests on a GPU, and a picture under each of ComfyUI's options"
	@echo "make soak      the hosted APIs under bad luck and bad callers for half an hour (ARGS='--minutes N')"
	@echo "make lint      linters and types"
	@echo "make test-TIER one tier: $(TIERS)"
	@echo "make lock      renew what tools/locks pins"
	@echo "make clean     remove .venv, .hosts and caches; output/ is kept"
	@echo "COMFYUI_PATH=FOLDER uses your own ComfyUI, COMFYUI_PYTHON=PROGRAM its Python."

demo serve lint test test-all test-gpu soak lock:
	$(RUN) $@ $(ARGS)

pool:
	$(RUN) serve-pool $(ARGS)

$(TIERS:%=test-%):
	$(RUN) $(@:test-%=%) $(ARGS)

clean:
	rm -rf .venv .venv-oldest .nox .hosts .mypy_cache .ruff_cache .hypothesis .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
