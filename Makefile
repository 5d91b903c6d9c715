# Two commands matter: `make repro` and `make test`. Both make the environment first; it is quick when nothing changed.
.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON ?= python3
BASE ?= main
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1

.PHONY: help setup repro report why verify rejudge seeds judge-card blind label unblind blind-serve test lint deps recipe base lock bench

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.lock ## the environment, from the lock in requirements.txt

$(VENV)/.lock: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "anneal needs Python 3.11 or newer; name one: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

repro: setup ## from source material to a judged, merged model, then the report
	dvc repro
	@python -m commands.report $(BASE)

report: setup ## what changed against BASE (main); MIN_SCORE=4.2 MAX_REGRESSION=0.1 make it a gate
	@python -m commands.report $(BASE) $(if $(MIN_SCORE),--min-score "$(MIN_SCORE)") $(if $(MAX_REGRESSION),--max-regression "$(MAX_REGRESSION)")

why: setup ## what a stage read otherwise than at a revision (STAGE=judge@golden BASE=HEAD~1)
	@test -n "$(STAGE)" || { echo 'make why STAGE=judge@golden BASE=HEAD~1; stages: dvc stage list'; exit 1; }
	@python -m commands.why $(STAGE) $(BASE)

verify: setup ## compute every number of the report again from stored rows, without a model or a judge
	@python -m commands.verify

rejudge: setup ## today's judge on the stored answers of old experiments (EXPS="exp-a main~3")
	@test -n "$(EXPS)" || { echo 'make rejudge EXPS="..."; names of experiments (dvc exp list) or revisions of git'; exit 1; }
	@python -m commands.rejudge $(EXPS)

seeds: setup ## how far the scores move when only the training seed differs (N=3 runs in all)
	@python -m commands.seeds --n $(or $(N),3)

judge-card: setup ## what the judge detects of injected defects: reports/metrics/card.json
	dvc repro card

blind: setup ## a page that asks people which text is better (N=40 PAIR="tuned:base" QUESTION="..." FORCE=1)
	@python -m commands.blind build --n $(or $(N),40) $(addprefix --pair ,$(PAIR)) --question "$$QUESTION" $(if $(FORCE),--force)

label: setup ## the same for scores: people give the rubric's 1 to 5 (N=20 QUESTION="..." FORCE=1)
	@python -m commands.blind label --n $(or $(N),20) --question "$$QUESTION" $(if $(FORCE),--force)

blind-serve: setup ## hand these pages out on this machine and keep the votes in data/human
	@python -m commands.blind serve

unblind: setup ## open the key and count: reports/metrics/human.json
	@python -m commands.blind unblind

deps: setup ## write the code deps of dvc.yaml from the imports
	@python -m commands.deps

lint: setup ## ruff and mypy
	ruff check anneal commands stages tests bench
	ruff format --check anneal commands stages tests bench
	mypy

test: setup lint ## everything a commit must pass
	@bash .ci/browser
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder

recipe: setup ## compose params.yaml of recipes/default.yaml and recipes/NAME.yaml (FORCE=1 drops local edits)
	@python -m commands.recipe "$(NAME)" $(if $(FORCE),--force)

base: setup ## train the tiny base model of the active recipe anew and ship it (models/shipped)
	@name=$$(awk '$$1 == "recipe:" {print $$2}' params.yaml); \
	ANNEAL_REBUILD=1 dvc repro --force --single-item base && rm -rf models/shipped/$$name && \
	cp -r models/base models/shipped/$$name && dvc commit --force base && du -sh models/shipped

bench: setup ## every measured claim, each a ratio against a named peer in the same run
	@for script in bench/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 python $$script || exit 1; done

lock: setup ## write requirements.txt from the present environment
	@{ sed -n '/^#/p' requirements.txt; pip freeze | grep -viE '^(nvidia-|triton|cuda-)' | sed 's/+cpu//'; } > requirements.tmp
	@mv requirements.tmp requirements.txt && touch $(VENV)/.lock
