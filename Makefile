# The graph: data -> models -> embeddings -> numbers, tables, figures. `make help` lists targets.
# Only the first three are files that make compares; a notebook knows by itself whether its numbers
# are current, so `tables` and `figures` always draw and never train.

RUNS      := smoke demo digits table openi mimic reference
RUN       ?= demo
VARIANTS  ?= mcr abm dual
SEEDS     ?= 0
DATA      ?=
WEIGHTS   ?=
NAME      ?=
BOXES     ?=
SET       ?=
PROCESSES ?= 1
CONFIRM   ?=
ONLY      ?=
STYLE     ?= $(MCR_STYLE)

# half-RUN has half of the compute of RUN, double-RUN twice as much: the models of its ablations, and
# those that show what more compute gives.
TRAINED   := $(filter-out reference,$(RUNS))
MULTIPLES := $(TRAINED:%=half-%) $(TRAINED:%=double-%)
# pairs-N-RUN is trained on the first N pairs of RUN, for as many steps.
FEWER     := $(foreach run,$(TRAINED),pairs-%-$(run))

ifneq ($(words $(RUN)) $(filter $(RUNS) $(MULTIPLES) $(FEWER),$(RUN)),1 $(strip $(RUN)))
$(error There is no run '$(RUN)'; choose RUN from $(RUNS))
endif
# Without a model no rule would run, and nothing would be said.
ifeq ($(strip $(VARIANTS)),)
$(error VARIANTS names no variant; the default is VARIANTS='mcr abm dual')
endif
ifeq ($(strip $(SEEDS)),)
$(error SEEDS names no seed; the default is SEEDS=0)
endif

# Paths and settings reach Python through the environment, never pasted into a recipe, and a dollar
# in them is kept: what the user typed is what is used.
override DATA := $(value DATA)
override WEIGHTS := $(value WEIGHTS)
override NAME := $(value NAME)
override BOXES := $(value BOXES)
override SET := $(value SET)
export RUN VARIANTS SEEDS DATA WEIGHTS NAME BOXES SET PROCESSES CONFIRM ONLY
export MCR_STYLE := $(STYLE)

MODELS   := $(foreach s,$(SEEDS),$(VARIANTS:%=%-seed$(s)))
EXECUTED := results/$(RUN)/executed

# An active virtual or conda environment is used unchanged (conda's `base` does not count).
ifneq ($(VIRTUAL_ENV)$(filter-out base,$(CONDA_DEFAULT_ENV)),)
PYTHON := python
ENV    :=
else
PYTHON := .venv/bin/python
ENV    := .venv/stamp
endif

# $(call NOTEBOOK,name,suffix): the words after it are parameters, with values from the environment.
NOTEBOOK  = $(PYTHON) -m mcrlib.companion.execute notebooks/$(1).ipynb $(EXECUTED)/$(1)$(2).ipynb run
# $(call MODEL,VARIANT-seedS): the environment that names one model.
MODEL     = VARIANT='$(firstword $(subst -seed, ,$(1)))' SEED='$(lastword $(subst -seed, ,$(1)))'

# Git strips the outputs of notebooks/ when they are added (.gitattributes), so that no report text is
# committed. Nothing happens outside a git checkout.
STRIP_OUTPUTS = git config filter.nbstripout.clean '"$(PYTHON)" -m nbstripout' 2>/dev/null && \
                git config filter.nbstripout.smudge cat && \
                git config filter.nbstripout.required true || true

.PHONY: help doctor rehearse plan env data train embed baseline peer tables figures report reproduce ablations \
        robustness efficiency bench publish status experiments test check lab clean guard settled \
        03_retrieval 04_text_metrics 05_modality_gap 06_top3 07_ablations 08_efficiency 09_explore \
        10_grounding 11_relevance 12_claims 13_robustness

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  RUN=smoke|demo|digits|table|openi|mimic|reference   VARIANTS='mcr abm dual'   SEEDS='0 1'"
	@echo "  RUN=half-demo and double-demo have half and twice the compute, pairs-500-demo its first 500 training pairs"
	@echo "  DATA=file or folder   WEIGHTS=folder with the pretrained encoders   PROCESSES=GPUs to share   SET='epochs: 3, lr: 1e-4'"
	@echo "  STYLE=icml2024 or another venue of tueplots, for figures of its width and font"

doctor: $(ENV) ## what is there: GPU, Java, disk, weights, data
	@$(PYTHON) -m mcrlib.companion.doctor "$$RUN" "$$DATA" "$$WEIGHTS"

rehearse: $(ENV) ## everything on a sample, on this machine; ends with the plan of the whole run
	@$(PYTHON) -m mcrlib.companion.rehearse "$$RUN" "$$VARIANTS" "$$SEEDS" "$$DATA" "$$WEIGHTS" "$$SET"

plan: $(ENV) ## the plan that a rehearsal made, and what exists already
	@$(PYTHON) -m mcrlib.companion.plan "$$RUN" "$$VARIANTS" "$$SEEDS" "$$SET"

status: $(ENV) ## what of each claim's experiment is there, and what to run next
	@$(PYTHON) -m mcrlib.companion.status "$$RUN" "$$SET" "$$ONLY"

experiments: $(ENV) ## each claim's missing models, embeddings and numbers; ONLY=id runs that one
	@$(PYTHON) -m mcrlib.companion.conduct "$$RUN" "$$SET" "$$ONLY"

env: $(ENV) ## the environment: .venv from requirements.lock, unless one is active

.venv/stamp: requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed as `python3`; this one is " + sys.version.split()[0])'
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench,openi,peers,explore]'
	@$(STRIP_OUTPUTS)
	touch $@

guard: $(ENV)
	@$(PYTHON) -m mcrlib.config "$$RUN" "$$VARIANTS" "$$SEEDS" "$$SET" "$$PROCESSES"
	@$(PYTHON) -m mcrlib.companion.doctor --may-run "$$RUN" "$$DATA" "$$CONFIRM" "$$WEIGHTS" "$$PROCESSES"

data: guard ## pairs: manifest and image cache in data/RUN
	@$(call NOTEBOOK,00_data,) data overrides

# Refuse models and embeddings that were made from other settings or pairs than those asked for.
settled: data
	@$(PYTHON) -m mcrlib.companion.settled "$$RUN" "$$VARIANTS" "$$SEEDS" "$$SET"

train: $(MODELS:%=results/$(RUN)/%/training.json) ## models of VARIANTS and SEEDS

embed: $(MODELS:%=results/$(RUN)/%/embeddings-test.npz) ## embeddings of the test and validation splits

# Order only: neither a checkout's timestamps nor a look at the data start a training.
results/$(RUN)/%/training.json: | settled
	@$(call MODEL,$*) $(call NOTEBOOK,01_train,-$*) variant seed weights processes overrides

results/$(RUN)/%/embeddings-test.npz: results/$(RUN)/%/training.json | settled
	@$(call MODEL,$*) $(call NOTEBOOK,02_embed,-$*) variant seed

# What corrupted input costs, once it was measured, is drawn again with everything else, and before
# the claims, which read it.
ifneq ($(wildcard results/$(RUN)/robustness.json),)
tables figures: 13_robustness
endif

tables: 03_retrieval 04_text_metrics 10_grounding 11_relevance 12_claims ## Recall@K, text metrics, relevance and verdicts, from the embeddings that are there

figures: 03_retrieval 04_text_metrics 05_modality_gap 06_top3 10_grounding 11_relevance ## all figures, from the same
ifeq ($(RUN),reference)
figures: 08_efficiency
endif
# Ablations that were compared once are drawn again with everything else.
ifneq ($(wildcard results/$(RUN)/ablations.json),)
tables figures: 07_ablations
endif

report: tables figures ## the claims, tables and figures on one page, results/RUN/report.html
	@$(PYTHON) -m mcrlib.companion.report "$$RUN"

baseline: 09_explore ## add a linear baseline to every table and figure

peer: $(ENV) ## add other people's model: NAME=... WEIGHTS=its folder or name on the hub (docs/mimic.md)
	@$(PYTHON) -m mcrlib.companion.peers "$$RUN" "$$NAME" "$$WEIGHTS"

03_retrieval 04_text_metrics 05_modality_gap 06_top3 07_ablations 08_efficiency 09_explore 11_relevance 12_claims 13_robustness: $(ENV)
	@$(call NOTEBOOK,$@,)

# Needs the trained models themselves; without them it shows the numbers that are there, or says why not.
10_grounding: $(ENV)
	@$(call NOTEBOOK,$@,) boxes

reproduce: $(ENV) ## everything: data, training, tables, figures; then a comparison with the reference
	@$(PYTHON) -m mcrlib.companion.plan --if-rehearsed "$$RUN" "$$VARIANTS" "$$SEEDS" "$$SET"
	@$(MAKE) --no-print-directory embed
	@$(MAKE) --no-print-directory baseline
	@$(MAKE) --no-print-directory tables figures
	@$(PYTHON) -m mcrlib.companion.compare "$$RUN"

# The default of VARIANTS is that of the main comparison, so only those that were typed count here.
ablations: TYPED = $(if $(filter command,$(origin VARIANTS)),"$$VARIANTS")
ablations: $(ENV) ## the method with one thing changed at a time, trained with half of the compute
	@variants=$$($(PYTHON) -m mcrlib.companion.ablations "$$RUN" $(TYPED)) && \
	$(MAKE) --no-print-directory embed RUN="half-$$RUN" VARIANTS="$$variants"
	@$(MAKE) --no-print-directory 07_ablations

robustness: 13_robustness ## what noise, hidden patches or missing sentences cost the trained models

efficiency: 08_efficiency ## time and memory of a training step at the paper's size, by variant

bench: $(ENV) ## speed and memory against others' code, to results/bench*.json; ONLY='7 8' prints only these
	$(PYTHON) benchmarks/run.py $$ONLY

publish: $(ENV) ## make the finished demo run the committed reference
	$(PYTHON) -m mcrlib.companion.publish "$$RUN"
	@$(MAKE) --no-print-directory tables figures RUN=reference

test: $(ENV) ## the tests
	$(PYTHON) -m pytest

check: $(ENV) ## style of code and notebooks, declared dependencies, no outputs in notebooks
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m deptry .
	$(PYTHON) -m nbstripout --verify notebooks/*.ipynb

# An upload of 20 MB is one message, of which the server takes 10 MB by default.
LARGEST_MESSAGE := 134217728

lab: $(ENV) ## JupyterLab in notebooks/
	@$(STRIP_OUTPUTS)
	$(PYTHON) -m jupyterlab --notebook-dir=. \
	    --ServerApp.tornado_settings="{'websocket_max_message_size': $(LARGEST_MESSAGE)}"

clean: ## remove data, results and figures of RUN, of its rehearsal, and of half-RUN and the like (never the reference)
	@test "$$RUN" != reference || { echo "The reference is committed; it is not removed."; exit 1; }
	rm -rf "data/$$RUN" "results/$$RUN" "figures/$$RUN"
	rm -rf "data/rehearse-$$RUN" "results/rehearse-$$RUN" "figures/rehearse-$$RUN"
	rm -rf "results/half-$$RUN" "figures/half-$$RUN" "results/double-$$RUN" "figures/double-$$RUN"
	rm -rf "results/pairs-"*"-$$RUN" "figures/pairs-"*"-$$RUN"
