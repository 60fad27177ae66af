# `make demo` and `make test` set up what they need: a virtual environment of their own in .venv.
PYTHON ?= python3
RUN := .venv/bin/python
export OMP_NUM_THREADS ?= 1

TASKS ?=
SEEDS ?=
JOBS ?=
BUDGET ?=
DEVICE ?=

# A mistyped variable would be ignored, and everything run.
known := PYTHON TASKS SEEDS JOBS BUDGET DEVICE DATA OMP_NUM_THREADS
unknown := $(filter-out $(known),$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v)))
$(if $(unknown),$(error $(unknown)=: not known here; choose from $(known) (in capitals, with their S)))

study_options = $(if $(TASKS),task=$(TASKS)) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(JOBS),jobs=$(JOBS)) \
	$(if $(BUDGET),budget=$(BUDGET)) $(if $(DEVICE),device=$(DEVICE))

STUDIES := table2 heterogeneous sparsity lasg gdsec majority-vote published-draws

.PHONY: help setup demo test lint benchmark reproduce $(STUDIES:%=reproduce-%) reproduce-table3 distributed \
	reproduce-figures report clean

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
	@echo "make distributed       SASG on ten processes of this machine; TASKS=mnist chooses the task"
	@echo "make reproduce         all of the paper's training runs and figures (a GPU's work)"
	@echo "make reproduce-figures the figures of results/figures, from the runs that there are"
	@echo "make report            results/report.html: everything that was run, to look at in a browser"
	@echo "make setup             the virtual environment .venv alone"

setup: .venv/ready

.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[suite,test]"
	@touch $@

demo: setup
	$(RUN) experiments/reproduce.py study=demo

test: setup
	$(RUN) -m pytest -n 3 --dist worksteal

lint: setup
	$(RUN) -m ruff check .

DATA ?= data
benchmark: setup
	$(RUN) benchmarks/mnist_cpu.py --data $(DATA)

$(STUDIES:%=reproduce-%): reproduce-%: setup
	$(RUN) experiments/reproduce.py study=$(subst -,_,$*) $(study_options)

reproduce-table3: setup
	$(RUN) scripts/table3.py

reproduce: reproduce-table2 reproduce-heterogeneous reproduce-sparsity reproduce-figures

distributed: setup
	$(RUN) experiments/train.py task=$(or $(TASKS),digits) algorithm=sasg cluster=distributed

reproduce-figures: setup
	$(RUN) scripts/figures.py

report: setup
	$(RUN) scripts/report.py

clean:
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache
