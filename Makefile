# Every target sets up what it needs: a Linux or macOS machine with Python 3.11 or newer is enough.
#
#   make demo         install, trace a prompt on the specimen, serve the page
#   make test         the whole suite (no network beyond the package registry)
#   make check        format, lint, types, layers, spelling, links
#   make evidence     every measured figure again, into docs/evidence.md
#   make bench        side by side with peers, where they are installed
#   make docs         links, snippets and figures of the documentation; examples and notebooks run
#   make oldest       the tests on the oldest versions that pyproject.toml allows (OLDEST_TORCH=2.10.0)
#   make mutants      small wrong changes, and which of them the tests notice (20 minutes)
#   make fuzz         damaged files and requests for ten minutes: nothing may crash, hang, swell or let NaN in
#   make screenshots  the pictures in docs/screenshots
#   make wheel        build, and check the wheel in an environment of its own
#   make specimen     train the specimen and its dictionaries from nothing (hours)
#   make specimen-multimodal  the same of the one that sees drawings (half an hour)
#   make smollm2      fetch SmolLM2-135M-Instruct, train its transcoders, measure (hours); TEXT=FOLDER adds text
#   make smollm2-sae  train autoencoders for it like those in the package (half an hour); TEXT=FOLDER adds text

PYTHON ?= $(shell for v in python3.13 python3.12 python3.11 python3 python; do \
	if command -v $$v >/dev/null 2>&1 && $$v -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo $$v; break; fi; done)
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(RUN) -m pip --disable-pip-version-check --no-input
PYTEST_FLAGS ?=
# As many workers as there are cores, each with one thread; `make test WORKERS=0` runs everything in one process.
WORKERS ?= auto
DEMO_FLAGS ?=
OLDEST_TORCH ?= 2.10.0
MUTANTS_FLAGS ?=
FUZZ_FLAGS ?= --minutes 10 --seed 0
SPECIMEN := src/thoughtscope/assets/specimen
# A folder of running text for the specimen; without it, the generator's own grammars.
TEXT ?=
TEXT_FLAG := $(if $(TEXT),--text $(TEXT))

.PHONY: pins oldest demo test mutants fuzz check format bench docs evidence screenshots specimen specimen-multimodal smollm2 smollm2-sae wheel version clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(RUN) -m thoughtscope demo $(DEMO_FLAGS)

test: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadscope $(PYTEST_FLAGS)

check: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports
	$(RUN) -m codespell_lib
	$(RUN) -m pytest -q -m "not slow" tests/test_house.py tests/test_docs.py

format: $(READY)
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

bench: $(READY)
	$(RUN) bench/run_all.py

docs: $(READY)
	$(RUN) docs/render.py
	$(RUN) -m pytest -q -m "not slow" tests/test_docs.py
	$(RUN) -m pytest -q tests/test_docs_examples.py tests/test_wheel.py

evidence: $(READY)
	$(RUN) evidence/run_all.py

mutants: $(READY)
	$(RUN) -m tests.mutants $(MUTANTS_FLAGS)

fuzz: $(READY)
	$(RUN) -m tests.fuzz $(FUZZ_FLAGS)

screenshots: $(READY)
	$(RUN) -m tests.browser.screenshots

specimen: $(READY)
	$(RUN) -m specimens.train --work runs/specimen --out $(SPECIMEN) $(TEXT_FLAG)
	$(RUN) -m specimens.dictionaries --kind clt --out $(SPECIMEN)/clt $(TEXT_FLAG)
	$(RUN) -m specimens.dictionaries --kind plt --out $(SPECIMEN)/plt $(TEXT_FLAG)
	$(RUN) -m specimens.score --model $(SPECIMEN) $(TEXT_FLAG)

specimen-multimodal: $(READY)
	$(RUN) -m specimens.multimodal.train --work runs/multimodal --out $(SPECIMEN)-multimodal
	$(RUN) -m specimens.multimodal.dictionary --work runs/multimodal/sae --out $(SPECIMEN)-multimodal/sae
	$(RUN) -m specimens.multimodal.score --model $(SPECIMEN)-multimodal

# Documents and trainings go on where they were stopped; scores, examples and figures are made anew.
smollm2: $(READY)
	$(RUN) -m thoughtscope fetch smollm2
	$(RUN) -m specimens.smollm2.dictionaries transcoders --work runs/smollm2 $(TEXT_FLAG)
	$(RUN) evidence/run_all.py smollm2_start smollm2_trace smollm2_dictionaries smollm2_graphs smollm2_truth smollm2_swap smollm2_steering

smollm2-sae: $(READY)
	$(RUN) -m thoughtscope fetch smollm2
	$(RUN) -m specimens.smollm2.dictionaries sae --work runs/smollm2 --int8 --own-words $(TEXT_FLAG)

# The wheel as a user gets it: installed from the file, outside of the checkout.
wheel: $(READY)
	rm -rf dist build/wheel build/lib
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	$(RUN) -m venv build/wheel
	build/wheel/bin/python -m pip --disable-pip-version-check --no-input install --quiet dist/*.whl
	cd build/wheel && HF_HUB_OFFLINE=1 bin/thoughtscope trace "Fact: the capital of the state containing Dallas is" --out graph.json
	cd build/wheel && HF_HUB_OFFLINE=1 bin/thoughtscope report graph.json --out report.html
	cd dist && $(abspath $(RUN)) -c "import hashlib, pathlib; [print(hashlib.sha256(p.read_bytes()).hexdigest(), p) for p in pathlib.Path().iterdir()]"

# Deprecations in old versions are not ours to mend, so warnings are no errors here. Python 3.11, for numpy's sake.
oldest:
	rm -rf build/oldest && mkdir -p build
	python3.11 -m venv build/oldest
	python3.11 .ci/oldest.py > build/oldest.txt
	build/oldest/bin/python -m pip --disable-pip-version-check --no-input install --quiet torch==$(OLDEST_TORCH)
	build/oldest/bin/python -m pip --disable-pip-version-check --no-input install --quiet --constraint build/oldest.txt --editable '.[dev,gguf]'
	build/oldest/bin/python -m pytest -q -n $(WORKERS) -o filterwarnings=default -m "not browser" $(PYTEST_FLAGS)

# The hashes in constraints.txt anew, from the simple pages of a package index; PINS="rich==15.0.1" changes a version.
pins:
	$(PYTHON) .ci/pins.py $(INDEX) $(PINS)

version:
	@sed -n 's/^__version__ = "\(.*\)"/\1/p' src/thoughtscope/__init__.py

# First exactly what constraints.txt names, by hash and without asking what it needs; PyTorch by itself, at its pinned
# version, as some machines keep a build of their own. Then this checkout; only what that build of PyTorch needs is still
# to come.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "thoughtscope needs Python 3.11 or newer with venv (Debian: apt install python3-venv)"; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	grep -v '^torch==' constraints.txt > $(VENV)/pinned.txt
	$(PIP) install --quiet --no-deps --require-hashes --requirement $(VENV)/pinned.txt
	$(PIP) install --quiet --no-deps "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet --no-build-isolation --editable '.[dev,gguf]'
	$(PIP) check
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
