# The one place for commands; README, CONTRIBUTING and .ci/run call these. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
BIN := .venv/bin
# Named after this folder and this Python: a checkout that was moved, or another PYTHON, sets up anew.
READY := .venv/.ready-$(shell printf '%s %s' '$(CURDIR)' "$$($(PYTHON) -V 2>&1)" | cksum | cut -d' ' -f1)
# One thread each, so that a sum is added up in the same order on every machine.
QUIET := OMP_NUM_THREADS=1 PYTHONHASHSEED=0 PYDEVD_DISABLE_FILE_VALIDATION=1 JUPYTER_PLATFORM_DIRS=1

.PHONY: help env book serve pdf epub test lint unit fuzz notebooks mutants alone pages export run chapter lock audit weights evaluate kinds peers parity speed decoding-speed ablation dist clean

help:  ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1 \2/p' $(MAKEFILE_LIST) | while read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

# requirements.lock has every package but torch, with the hashes of its files for all systems. Torch comes after it, by
# version alone, since its file is another one for each kind of machine, and brings CUDA where pip's own does.
# `make LOCK= book` leaves the lock out: pip then looks for the packages beneath those in requirements.txt itself.
LOCK := requirements.lock
TORCH_ONLY := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton

$(READY): requirements.txt $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.11 ...")'
	@echo "Setting up .venv (once; some minutes)"
	@$(PYTHON) -m venv $$([ -e $@ ] || echo --clear) .venv
	@$(BIN)/python -m pip install --upgrade pip --progress-bar off --quiet
	$(if $(LOCK),$(BIN)/python -m pip install --no-deps --require-hashes -r $(LOCK))
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-build-isolation --no-deps --quiet -e .
	@touch $@

env: $(READY)  ## set up .venv; every other command does so too

book: $(READY)  ## build the book into _build/html
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo; echo "The book is built. Open it:  file://$(CURDIR)/_build/html/index.html   or: make serve"

serve: book  ## build the book and serve it on this machine, port 8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory _build/html

pdf: book  ## the chapters and the reference on A4, into _build/pdf (needs Chromium)
	$(BIN)/python tools/paper.py pdf

epub: book  ## the same for readers of electronic books, into _build/epub (needs Chromium)
	$(BIN)/python tools/paper.py epub

test: lint unit mutants alone pages  ## everything that continuous integration runs

lint: $(READY)  ## style, types, workflows, stamps, and stored outputs that are stale
	$(BIN)/ruff check .
	$(BIN)/mypy src
	$(BIN)/zizmor --offline --quiet .github
	@if command -v npx >/dev/null; then npx --yes @biomejs/biome@2.6.8 lint --error-on-warnings src/annotated_decoder/teaching/pieces; else echo "JavaScript and CSS are not linted: there is no npx"; fi
	$(BIN)/python tools/notebooks.py stamp --check
	$(BIN)/python tools/notebooks.py tidy --check

unit: $(READY)  ## the laws, on the package
	$(QUIET) $(BIN)/python -m pytest -n 2 --ignore tests/pages tests

# Of inputs: how many, from which seed, of which kinds (all unless named), or one number alone, as a fault is told.
N := 10000
SEED := 1
KIND :=
NUMBER :=
fuzz: $(READY)  ## damaged inputs, each used or refused in a sentence: make fuzz N=1000 SEED=2 KIND="onnx command"
	$(QUIET) $(BIN)/python tests/fuzz.py -n $(N) --seed $(SEED) $(if $(KIND),--kinds $(KIND)) $(if $(NUMBER),--number $(NUMBER))

mutants: $(READY)  ## break each law, and see the test meant for it fail
	$(QUIET) $(BIN)/python tools/mutations.py

notebooks: $(READY)  ## nbval on every notebook here, while you edit; `alone` does it more strictly
	$(QUIET) $(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=300 notebooks

# Of packages: pinned as in requirements.txt, or `make alone VERSIONS=floors` (the least allowed), or newest.
VERSIONS := pinned
alone: $(READY)  ## nbval: the wheel in a bare environment, every notebook alone with it, on another CPU's arithmetic
	$(BIN)/python tools/alone.py --versions $(VERSIONS)

# A browser may stall: a test that does not end says where it stood, and what failed is run once more in another one.
PAGES := $(BIN)/python -m pytest -n 2 -o faulthandler_timeout=240 -o faulthandler_exit_on_timeout=true tests/pages
pages: book  ## the built pages in a real browser (skipped where there is no Chromium)
	$(PAGES) || $(PAGES) $$([ $$? = 1 ] && echo --last-failed)

export: $(READY)  ## write src/annotated_decoder from the notebooks
	$(BIN)/python tools/notebooks.py stamp
	$(BIN)/nbdev-export
	@rm -f src/annotated_decoder/_modidx.py

run: export  ## run every notebook from the top and store its outputs
	$(QUIET) $(BIN)/python tools/notebooks.py run

chapter: $(READY)  ## a new notebook that runs: make chapter NAME=20_distillation TITLE="A smaller model", or NAME=trained/museum
	$(BIN)/python tools/notebooks.py new "$(NAME)" "$(TITLE)"

lock: $(READY)  ## write requirements.lock anew: the newest packages that requirements.txt allows
	$(BIN)/python -m pip install --quiet uv
	@mkdir -p _build
	{ echo '# Every package but torch, and its files'"'"' hashes, for all systems; `make lock` writes it from requirements.txt.'; echo; \
	  printf '%s\n' $(TORCH_ONLY) | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-package torch --excludes - requirements.txt; } > _build/requirements.lock
	mv _build/requirements.lock requirements.lock

audit: $(READY)  ## known weaknesses of the packages in requirements.lock, and of torch (asks a database on the network)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --disable-pip --require-hashes -r requirements.lock
	@mkdir -p _build
	sed -n '/^torch==/p' requirements.txt > _build/torch.txt
	$(BIN)/pip-audit --disable-pip --no-deps -r _build/torch.txt

weights: $(READY)  ## train two teachers and the shipped model anew (hours on 2 cores) and score it
	for seed in 2 3; do \
		$(BIN)/annotated-decoder train --seed $$seed --out _build/teacher-$$seed.safetensors || exit; done
	$(BIN)/annotated-decoder train --seed 1 --out _build/pronouncer.safetensors --teachers _build/teacher-[23].safetensors
	$(BIN)/annotated-decoder evaluate --model _build/pronouncer.safetensors --store
	$(BIN)/python -m pip install --no-deps --quiet -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/kinds.py --model _build/pronouncer.safetensors --store
	cp _build/pronouncer.safetensors src/annotated_decoder/pronunciation/pronouncer.safetensors

evaluate: $(READY)  ## score the shipped model on all test words
	$(BIN)/annotated-decoder evaluate

kinds: $(READY)  ## the shipped model by kind of word: common or rare, name or not
	$(BIN)/python -m pip install --no-deps --quiet -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/kinds.py

peers: $(READY)  ## the pronunciation model beside others, on the same words (espeak-ng must be installed)
	$(BIN)/python -m pip install --no-deps --quiet -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/peers.py

parity: $(READY)  ## checkpoints in this book's modules beside transformers, logits and ids
	$(QUIET) $(BIN)/python benchmarks/parity.py

speed: $(READY)  ## training beside torch.nn.Transformer, in turns
	$(BIN)/python benchmarks/training_speed.py --save

decoding-speed: $(READY)  ## decoding beside transformers and CTranslate2, in turns, on the same weights
	$(BIN)/python -m pip install --no-deps --quiet -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/decoding.py --save

ablation: $(READY)  ## the trials that have no result yet, or the smallest once more, compared with its stored band
	$(BIN)/python benchmarks/ablation.py

dist: $(READY)  ## build the source archive and the wheel into dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*

clean:  ## remove what was built; the environment stays
	rm -rf _build build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find notebooks src tests tools book -name __pycache__ -prune -exec rm -rf {} +
