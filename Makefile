# The commands of a developer. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
FUZZ := tests/integration/server/test_fuzz.py
# The commands of a README use one port of this machine: the tests wait for each other.
READMES := tests/integration/test_examples.py
FORMATS := tests/integration/server/test_formats.py tests/integration/server/test_compile.py

# A process writes the bytecode of what it imports, so that the next of some thousand need not compile it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: $(VENV)/.done ## Create the virtual environment for development

$(VENV)/.done: pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.13: install one of these, or type make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: lock
lock: setup ## Update the lock files from pyproject.toml (UPGRADE=1 selects the newest versions)
	$(BIN)/python -m hack.lock $(if $(UPGRADE),--upgrade)

.PHONY: demo
demo: setup ## Roll out the versions of a model on a real Kubernetes under traffic (KEEP=1 leaves the cluster running)
	$(BIN)/python -m hack.demo

.PHONY: picture
picture: setup ## Draw docs/rollout.svg from the recording of the last make demo
	$(BIN)/python -m hack.picture out/demo.jsonl docs/rollout.svg

.PHONY: test
test: setup ## Run all tests: checks, models, processes, a real API server, a browser, and a whole cluster under traffic
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint types coverage simulations
	$(BIN)/python -m hack.lint --install
	$(BIN)/python -m hack.cluster images
	@$(MAKE) --no-print-directory --jobs 2 test-cluster test-system test-router test-protocols test-models

.PHONY: test-router
test-router: setup ## Run only the tests of the router's HAProxy, without a cluster
	$(BIN)/python -m pytest tests/integration/router -n 4 -q  # they wait for most of the time

# Two targets: at the end of `make test`, nothing else runs, and the fuzzers use one core.
.PHONY: test-models test-census test-formats
test-models: test-formats test-census ## Run only the census of models, the fuzzers and the libraries' formats, with the CPU time that others leave

test-formats: setup
	nice -n 10 $(BIN)/python -m pytest tests/fuzz_formats $(FUZZ) $(FORMATS) -q

test-census: setup
	nice -n 10 $(BIN)/python -m pytest tests/census -n 2 --dist worksteal -q

.PHONY: test-cluster
test-cluster: setup ## Run only the tests on a whole cluster under traffic, on two at a time, and the commands of the READMEs
	$(BIN)/python -m pytest tests/e2e $(READMES) -n 2 --dist worksteal --durations=15

.PHONY: test-system
test-system: setup ## Run only the tests of processes, and of a real API server
	$(BIN)/python -m pytest tests/integration --ignore tests/integration/router \
		$(addprefix --ignore=,$(READMES) $(FUZZ) $(FORMATS)) --durations=15

.PHONY: test-protocols
test-protocols: setup ## Run only the tests of the protocols, and of the model's page in a browser
	nice -n 10 $(BIN)/python -m pytest tests/conformance tests/browser -q

.PHONY: test-attack
test-attack: setup ## Run only what attackers would try, of every kind of test, and print which cases hold (30 minutes)
	$(BIN)/python -m hack.cluster images
	$(BIN)/python -m pytest tests --attacks -q

.PHONY: check
check: setup ## Run the fast checks, in less than a minute: lint, types, layers, generated files, links, unit tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint types unit-server unit-rest

.PHONY: lint
lint: setup ## Check every language, the layers, the generated files and the links
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	$(BIN)/python -m hack.router_files --check
	$(BIN)/python -m mlmodel_operator.api.crd | diff - crds/mlmodels.yaml || { echo "crds/ is out of date: run make generate"; exit 1; }
	$(BIN)/python -m mlmodel_operator.manifests | diff - manifests/install.yaml || { echo "manifests/ is out of date: run make generate"; exit 1; }
	$(BIN)/python -m mlmodel_operator.api.reference | diff - docs/reference/mlmodel.md || { echo "docs/reference/ is out of date: run make generate"; exit 1; }
	$(BIN)/python -m hack.attacks | diff - docs/reference/attacks.md || { echo "docs/reference/attacks.md is out of date: run make generate"; exit 1; }
	$(BIN)/python -m hack.attacks --check
	$(BIN)/python -m hack.census page | diff - docs/reference/models.md || { echo "docs/reference/models.md is out of date: run make generate"; exit 1; }
	$(BIN)/python -m hack.links
	$(BIN)/python -m hack.lint
	$(BIN)/python -m hack.words
	$(BIN)/python -m hack.lock --check

.PHONY: types
types: setup ## Run mypy --strict
	$(BIN)/mypy

# Two halves that take the same CPU time. Each of two workers of pytest-xdist would import and collect all tests.
.PHONY: unit unit-server unit-rest
unit: setup ## Run only the unit tests, without those that simulate whole rollouts or train many models
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target unit-server unit-rest

unit-server: setup
	$(BIN)/python -m pytest tests/unit/server -q -m "not simulation and not models"

unit-rest: setup
	$(BIN)/python -m pytest tests/unit --ignore tests/unit/server -q -m "not simulation and not models"

.PHONY: simulations
simulations: setup ## Run only the unit tests that simulate whole rollouts
	$(BIN)/python -m pytest tests/unit -q -m simulation  # one process: in `make test`, it runs beside two of `coverage`

# Without the simulations: coverage doubles the time of what runs the same lines many thousand times.
.PHONY: coverage
coverage: setup ## Run the other unit tests and report their line coverage; fails below the floor in pyproject.toml
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/unit -q -n 2 --dist worksteal -m "not simulation"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --format=total

.PHONY: generate
generate: setup ## Write the packed files of the router, the CRD, install.yaml and the reference from the code
	$(BIN)/python -m hack.router_files
	$(BIN)/python -m mlmodel_operator.api.crd > crds/mlmodels.yaml
	$(BIN)/python -m mlmodel_operator.manifests > manifests/install.yaml
	$(BIN)/python -m mlmodel_operator.api.reference > docs/reference/mlmodel.md
	$(BIN)/python -m hack.census page > docs/reference/models.md
	$(BIN)/python -m hack.attacks > docs/reference/attacks.md
	$(BIN)/python -m hack.proto

.PHONY: cluster
cluster: setup ## Start a throwaway Kubernetes with the project's images; kubeconfig in .cluster/
	$(BIN)/python -m hack.cluster up

.PHONY: cluster-down
cluster-down: setup ## Stop that Kubernetes and remove everything except its caches
	$(BIN)/python -m hack.cluster down

.PHONY: images
images: setup ## Build the images, and load them into the cluster if it is running
	$(BIN)/python -m hack.cluster images

.PHONY: soak
soak: setup ## Roll out twenty versions with every outcome under traffic while processes are killed, and lose the status in every phase (30 minutes)
	$(BIN)/python -m hack.cluster images
	$(BIN)/python -m pytest tests/e2e/test_soak.py tests/e2e/test_status_lost.py --soak 20 --whole -q -rP

.PHONY: rehearsal
rehearsal: setup ## Rehearse versions of every outcome on a whole cluster, and fifteen of the same model on a busy machine (30 minutes)
	$(BIN)/python -m hack.cluster images
	$(BIN)/python -m pytest tests/e2e/test_rehearsal.py --identical 15 --whole -q -rP

.PHONY: upgrade
upgrade: setup ## Upgrade the operator from another Git revision during a rollout, and go back, under traffic (FROM=REVISION; 10 minutes)
	$(BIN)/python -m pytest tests/e2e/test_upgrade.py --upgrade-from '$(FROM)' --whole -q -rP

.PHONY: census
census: setup ## Serve a model of every class in every format on every kind of table, and compare with its library (half an hour)
	$(BIN)/python -m hack.census run --all
	$(BIN)/python -m hack.census page > docs/reference/models.md

.PHONY: fuzz-artefacts
fuzz-artefacts: setup ## Open and predict 20,000 model files with one forged part: each is refused or answers as the library does
	$(BIN)/python -m tests.fuzz --count 20000
	$(BIN)/python -m pytest tests/fuzz_formats --fuzz-artefacts $(or $(N),7500) -q -s

.PHONY: bench
bench: setup ## Run the benchmarks against baselines, as ratios
	$(BIN)/python -m bench

.PHONY: examples
examples: setup ## Run every command of the READMEs of the examples, on this machine and on a whole cluster
	$(BIN)/python -m hack.cluster images
	$(BIN)/python -m pytest tests/integration/test_examples.py tests/e2e/test_examples.py --whole -q --durations=0

.PHONY: sbom
sbom: setup ## Write the bills of materials of the images to out/sbom/, as CycloneDX JSON
	$(BIN)/python -m hack.sbom

.PHONY: audit
audit: setup ## Look up known vulnerabilities of the locked packages, for a nightly job (exit code 3: no source answered; OSV=all.zip reads a file)
	$(BIN)/python -m hack.audit $(if $(OSV),--osv $(OSV))

.PHONY: clean
clean: ## Remove the virtual environment and build results (the caches of the cluster stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build dist
