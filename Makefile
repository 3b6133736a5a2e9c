# `make up` is all one needs; `make help` lists the rest.
# The environment lies in .venv and follows the hashed locks: nothing else is installed.

PYTHON ?=
PYTEST ?= -n auto
IN := .venv/bin/python

# Handed on as they were typed: a `$` or a quote in CMD belongs to the command.
override export CMD := $(value CMD)
export DATA HOST PORT WEB_PROCESSES
export UV_PYTHON_DOWNLOADS := never
# The trust of the operating system, as pip has it: companies add certificates of their own there.
export UV_SYSTEM_CERTS ?= true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help up manage test check bench screenshots witness demo-tamper lock

help: ## List these targets
	@echo "Parley. Start it with \`make up\`."
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name does; do printf '%-18s %s\n' "$$name" "$$does"; done

up: .venv/runtime.stamp ## Start everything (DATA=./data HOST=127.0.0.1 PORT=8000)
	@exec $(IN) -m chatbot.local.up

manage: .venv/runtime.stamp ## Run a management command on the same data (CMD="…")
	@exec $(IN) -m chatbot.local.manage

test: .venv/dev.stamp ## Run all tests (PYTEST="-n auto")
	@exec $(IN) -m pytest $(PYTEST)

check: .venv/dev.stamp ## Style, types, imports, migrations, deployment settings
	$(IN) -m ruff check .
	$(IN) -m ruff format --check .
	$(IN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	$(IN) -m chatbot.local.check

bench: .venv/dev.stamp ## Measure speed against a provider simulator
	@exec $(IN) -m benchmarks

screenshots: .venv/dev.stamp ## Take the pictures of the documentation
	@exec $(IN) docs/take_screenshots.py

DIST ?= dist
witness: ## Pack the witness of the audit log into one file (dist/witness.pyz)
	@rm -rf "$(DIST)/witness"
	@mkdir -p "$(DIST)/witness/audit"
	@cp audit/__init__.py audit/verify.py audit/witness.py "$(DIST)/witness/audit"
	@$(or $(PYTHON),python3) -m zipapp "$(DIST)/witness" -m audit.witness:main -o "$(DIST)/witness.pyz"
	@rm -rf "$(DIST)/witness"
	@echo "$(DIST)/witness.pyz: run it on another host, where Python has the package cryptography."

demo-tamper: .venv/runtime.stamp ## Change an entry of an audit log of its own, and see it named
	@exec $(IN) -m chatbot.demo_tamper

lock: .venv/dev.stamp ## Renew requirements*.lock from pyproject.toml
	@$(IN) -m uv pip compile -q --generate-hashes --universal --no-header --python-version 3.11 \
		pyproject.toml -o requirements.lock
	@$(IN) -m uv pip compile -q --generate-hashes --universal --no-header --python-version 3.11 \
		--group dev pyproject.toml -o requirements-dev.lock -c requirements.lock

.venv/uv.stamp: bootstrap.lock
	@echo "Making the environment in .venv (once) …"
	@python=$$(PYTHON='$(PYTHON)' sh chatbot/local/find_python.sh) || exit 1; \
	"$$python" -m venv .venv || { \
		rm -rf .venv; \
		echo "Python could not make an environment. On Debian and Ubuntu: sudo apt install python3-venv"; \
		exit 1; }
	@$(IN) -m pip install -q --require-hashes -r bootstrap.lock
	@touch $@

# What the tests need holds all that `up` needs: it serves as both.
.venv/runtime.stamp: requirements.lock .venv/uv.stamp
	@echo "Installing Parley's packages (once, about 30 s) …"
	@$(call install,requirements.lock)
	@touch $@

.venv/dev.stamp: requirements-dev.lock requirements.lock .venv/uv.stamp
	@echo "Installing Parley's packages and the tools for its tests (once, about 40 s) …"
	@$(call install,requirements-dev.lock)
	@touch .venv/runtime.stamp $@

# Where there is no home to keep the downloads in, they stay beside the environment.
install = [ -w "$${HOME:-/nonexistent}" ] || export UV_CACHE_DIR="$$PWD/.venv/cache"; \
	$(IN) -m uv pip install --python $(IN) --require-hashes -r $(1)
