# make demo     simulate a small session, run the whole chain on it, show the figures
#               (make demo PROFILE=slurm: on the cluster, from a node that may submit jobs)
# make demo-vem simulate an anisotropic volume of tissue, restore it, show the figures
# make test     all tests
# make check    format, lint, types, import order, rules, plans, licences, generated files
# make bench    benchmarks against the named peers (benchmarks/)
#
# Each sets up what it needs: .venv with the pinned packages of envs/constraints.txt. A second make is instant.

PYTHON ?= python3
JOBS ?= 2
PROFILE ?= profiles/local
BIN := .venv/bin
READY := .venv/.ready
DEMO := results/demo-input
VOLUME := results/vem-input
PIP := $(BIN)/pip --disable-pip-version-check --quiet

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo demo-vem test check bench generate

demo: $(READY) $(DEMO)/truth/facts.json
	snakemake --profile $(PROFILE) --configfile config/demo.yaml
	python -m emflow.project.figures results/demo

# Only where there is none: a new session would be new micrographs to the project. Remove the folder for one.
$(DEMO)/truth/facts.json: | $(READY)
	emflow simulate session $(DEMO) --config config/demo.yaml

demo-vem: $(READY) $(VOLUME)/truth/facts.json
	snakemake --profile $(PROFILE) --configfile config/vem.yaml
	python -m emflow.project.figures results/vem

$(VOLUME)/truth/facts.json: | $(READY)
	emflow simulate volume $(VOLUME) --config config/vem.yaml

test: $(READY)
	pytest -n $(JOBS) --dist loadfile --durations=40 --durations-min=4

check: $(READY)
	ruff format --check
	ruff check
	mypy
	lint-imports
	snakefmt --check Snakefile workflow/rules
	snakemake --lint
	.ci/plan-examples
	python -m emflow.project.generate --check
	.ci/licences
	.ci/short-files

bench: $(READY)
	set -e; for script in $(wildcard benchmarks/*.py); do echo "$$script"; python "$$script"; done

generate: $(READY)
	python -m emflow.project.generate

# Where there is no NVIDIA driver, PyTorch's index of CPU builds is asked first: the build on PyPI brings
# gigabytes of CUDA. If that index does not answer, pip takes what its own configuration offers (a local
# wheel, a mirror). --no-deps, since torch's own requirements come from PyPI with everything else.
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH := torch -c envs/constraints.txt

$(READY): pyproject.toml envs/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "emflow needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	if command -v nvidia-smi >/dev/null 2>&1; then $(PIP) install $(TORCH); else \
	  $(PIP) install --no-deps --index-url $(CPU_INDEX) --retries 1 --timeout 20 $(TORCH) || \
	  $(PIP) install --no-deps $(TORCH); fi
	$(PIP) install -c envs/constraints.txt -e '.[dev]'
	touch $@
