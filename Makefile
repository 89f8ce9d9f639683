# Every target first installs what it needs into $(VENV), so that each of them works in an empty clone.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FMN_GUARD := $(BIN)/fmn-guard
comma := ,

# Stands for an environment that holds the extras in its name; made anew when the dependencies change.
READY := $(VENV)/.ready-
ALL := $(READY)all
DEV := $(READY)all+dev
BROWSER := $(READY)all+dev+browser
DOCS := $(READY)docs
TRAINING := $(READY)all+training

# Checks whether a page is usable by everybody; fetched rather than included, for its licence is MPL-2.0.
AXE_VERSION := 4.14.1
AXE := $(VENV)/axe-core-$(AXE_VERSION).js

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help install quickstart quickstart-strict docs test test-slow test-html screenshots check format eval-builtin bench
.PHONY: bench-attacks bench-false-alarms bench-forgetting bench-mscore bench-sd15 bench-verdicts

help: ## Show this list.
	@sed -n 's/^\([a-z0-9-]*\):.* ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(ALL) ## Install fmn-guard with all its parts.

quickstart: $(ALL) ## Forget five things on the built-in model and prove it.
	$(FMN_GUARD) apply manifests/quickstart.yaml

# Until inversion has been tried, that policy is inconclusive, which exits with 4.
quickstart-strict: $(ALL) ## The same for a release: nothing held out, more pictures, tighter limits, and inversion.
	$(FMN_GUARD) apply manifests/quickstart-release.yaml --policy strict --out audits/quickstart-release || test $$? -eq 4
	$(FMN_GUARD) mscore audits/quickstart-release
	$(FMN_GUARD) gate audits/quickstart-release --policy strict

docs: $(DOCS) ## Build the documentation into build/docs; a broken link fails.
	$(BIN)/properdocs build --strict # with --quiet, no warning is counted

test: $(DEV) ## Run the tests.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(DEV) ## Run the tests that take minutes.
	$(BIN)/python -m pytest -m slow

test-html: $(BROWSER) $(AXE) ## Look at report.html in Chromium, which must be installed; needs npm.
	AXE_CORE=$(AXE) $(BIN)/python -m pytest -m browser

screenshots: $(BROWSER) ## Photograph the report of a run, RUN=audits/..., into docs.
	$(BIN)/python -m tests.browser $(RUN) docs

check: $(DEV) ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## Put style right where that can be done by machine.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

eval-builtin: $(TRAINING) ## Measure the built-in models against the figures in their model card.
	$(BIN)/python -m training.emoji_sd evaluate

bench: $(ALL) ## Measure start-up, linting, judging, a smoke audit, and what looking costs beside drawing.
	$(BIN)/python -m benchmarks

bench-forgetting: $(ALL) ## Measure what each preset forgets and keeps; resumable, ARGS=--quick for a short form.
	$(BIN)/python -m benchmarks.forgetting $(ARGS)

bench-mscore: $(ALL) ## Measure M-Scores where the truth is known; hours on one core, and resumable.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mscore
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mscore --rounds 2 --row patched --row "four tokens"

bench-verdicts: $(ALL) ## Audit checkpoints of which the truth is known; long, and resumable.
	$(BIN)/python -m benchmarks.verdicts

bench-attacks: $(ALL) ## Attack a patched model, a planted one and the base; minutes each, and resumable.
	$(BIN)/python -m benchmarks.attacks

bench-false-alarms: $(ALL) ## Count what NudeNet and open_nsfw see in harmless pictures; minutes, and resumable.
	$(BIN)/python -m benchmarks.false_alarms $(ARGS)

bench-sd15: $(ALL) ## Measure passes and patches at the size of real checkpoints; hours, 16 GB, and resumable.
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.sd15

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fmn-guard needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

$(READY)%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(subst +,$(comma),$*)]'
	@touch $@

$(AXE): | $(BIN)/python
	npm pack --silent --pack-destination $(VENV) axe-core@$(AXE_VERSION)
	tar -xzOf $(VENV)/axe-core-$(AXE_VERSION).tgz package/axe.min.js > $@
