# `make demo` and `make test` set up what they need: a virtual environment of their own in .venv.
PYTHON ?= python3
RUN := .venv/bin/python
export OMP_NUM_THREADS ?= 1

TASKS ?=
SEEDS ?=
JOBS ?=
BUDGET ?=
DEVICE ?=
TUNED ?=

# A mistyped variable would be ignored, and everything run.
known := PYTHON TASKS SEEDS JOBS BUDGET DEVICE TUNED DATA OMP_NUM_THREADS
unknown := $(filter-out $(known),$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v)))
$(if $(unknown),$(error $(unknown)=: not known here; choose from $(known) (in capitals, with their S)))

study_options = $(if $(TASKS),task=$(TASKS)) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(JOBS),jobs=$(JOBS)) \
	$(if $(BUDGET),budget=$(BUDGET)) $(if $(DEVICE),device=$(DEVICE)) $(if $(TUNED),tuned=$(TUNED))

STUDIES := table2 heterogeneous sparsity lasg gdsec majority-vote published-draws sensitivity seeds frontier language

.PHONY: help setup demo test lint benchmark scale reproduce $(STUDIES:%=reproduce-%) reproduce-table3 distributed \
	reproduce-figures report docs coverage notebooks imports format clean

help:
	@echo "make demo              four methods on the digits data set, ten workers, two seeds: a table and a figure (2 minutes)"
	@echo "make test              all tests"
	@echo "make benchmark         time of one iteration on MNIST, beside a loop in the published style (DATA=folder)"
	@echo "make reproduce-table2  Table II; TASKS=mnist SEEDS=1,19 JOBS=2 BUDGET=30m DEVICE=cpu narrow it"
	@echo "                       (they narrow every make reproduce-STUDY; JOBS=0 only writes its tables)"
	@echo "make reproduce-heterogeneous   Figure 5: five workers with CIFAR-10, five with MNIST (a GPU's work)"
	@echo "make reproduce-sparsity        Figure 4: several densities (a GPU's work)"
	@echo "make reproduce-majority-vote   sparse SGD with majority voting: accuracy and compression (a GPU's work)"
	@echo "make reproduce-table3  Table III on real links: as root on shaped ones (15 minutes)"
	@echo "make reproduce-lasg    LASG's four rules beside SGD, LAG and local SGD on MNIST by class (10 minutes)"
	@echo "make reproduce-gdsec   GD-SEC and others on convex problems (5 minutes; TASKS leaves out the one that needs MNIST)"
	@echo "make reproduce-published-draws MNIST with the random draws of the published notebook (half an hour on two cores)"
	@echo "make reproduce-sensitivity     SASG on MNIST: D, alpha, density, number of workers (hours on a CPU)"
	@echo "make reproduce-seeds           MNIST over 42 seeds beside the published means (a GPU's work)"
	@echo "make reproduce-frontier        every method by one ledger; TASKS=mnist SEEDS=1: hours on a CPU;"
	@echo "                               TUNED=true chooses each method's step size first"
	@echo "make reproduce-language        a language model: lazy, sparse and local methods (hours on a CPU; TUNED=true as above)"
	@echo "make scale             time, memory and bits of an iteration with 10, 100 and 1,000 workers (DATA=folder)"
	@echo "make distributed       SASG on processes of this machine; TASKS=mnist chooses the task"
	@echo "make reproduce         all of the paper's training runs and figures (a GPU's work)"
	@echo "make reproduce-figures the figures of results/figures, from the runs that there are"
	@echo "make report            results/report.html: everything that was run, to look at in a browser"
	@echo "make setup             the virtual environment .venv alone"
	@echo "make lint              ruff, its format, and mypy; make format mends what can be mended"
	@echo "make coverage          all tests, with the lines that they do not reach (htmlcov/)"
	@echo "make docs              the documentation as a site (site/); a broken link is an error"
	@echo "make notebooks         the notebooks in JupyterLab"
	@echo "make imports           which package imports which"

setup: .venv/ready

.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[suite,test]"
	@touch $@

demo: setup
	$(RUN) experiments/reproduce.py study=demo

test: setup
	$(RUN) -m pytest -n 3 --dist worksteal

coverage: .venv/dev
	$(RUN) -m pytest -n 3 --dist worksteal --cov --cov-report=term --cov-report=html

lint: .venv/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

imports: setup
	$(RUN) scripts/imports.py

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

notebooks: .venv/notebooks
	$(RUN) -m jupyterlab notebooks

# What only these need, on top of `make setup`.
.venv/dev .venv/docs .venv/notebooks: .venv/%: .venv/ready
	$(RUN) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[$*]"
	@touch $@

DATA ?= data
benchmark: setup
	$(RUN) benchmarks/mnist_cpu.py --data $(DATA)

scale: setup
	$(RUN) experiments/scale.py --data $(DATA) $(if $(DEVICE),--device $(DEVICE))

$(STUDIES:%=reproduce-%): reproduce-%: setup
	$(RUN) experiments/reproduce.py study=$(subst -,_,$*) $(study_options)

reproduce-table3: setup
	$(RUN) benchmarks/table3/measure.py

reproduce: reproduce-table2 reproduce-heterogeneous reproduce-sparsity reproduce-figures

distributed: setup
	$(RUN) experiments/train.py task=$(or $(TASKS),digits) algorithm=sasg cluster=distributed

reproduce-figures: setup
	$(RUN) scripts/figures.py

report: setup
	$(RUN) -m experiments.cli report

clean:
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage htmlcov site
