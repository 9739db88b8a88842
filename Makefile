# make install | make demo | make test | make docs | make preview | make lab | make bench | make weights | make finder | make grader | make ruler
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
.DEFAULT_GOAL := help
.PHONY: help install demo test docs preview lab bench weights finder grader ruler clean

help:
	@echo "make demo [DATA=/path/to/rsna]   the whole path, on phantoms or on a competition folder"
	@echo "make install                     the package and what it needs, in .venv; . .venv/bin/activate puts lumbar on the path"
	@echo "make test                        export, clean, notebooks and pytest"
	@echo "make docs                        the site, in _docs/"
	@echo "make preview                     the site, served at http://127.0.0.1:8000"
	@echo "make lab                         the notebooks in JupyterLab"
	@echo "make bench                       the benchmarks, one table each"
	@echo "make weights SPIDER=/path        make the packaged segmenters anew, about two hours"
	@echo "make finder                      make the packaged finder anew, about half an hour"
	@echo "make grader                      make the packaged grader anew, about an hour and a half"
	@echo "make ruler                       make the packaged grader's ruler anew, about five minutes"

.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3,11) and "lumbar_nbdev needs Python 3.11 or newer; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

install: .venv/installed

demo: .venv/installed
	$(BIN)/lumbar demo --out $(DEMO) $(if $(DATA),--rsna $(DATA))

test: .venv/installed
	$(BIN)/python tools/gate.py nbdev-export lumbar_nbdev nbs
	$(BIN)/python tools/gate.py nbdev-clean nbs
	$(BIN)/python tools/readme.py --check
	$(BIN)/python tools/badges.py --check
	$(BIN)/python tools/style.py --check >/dev/null
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 --timing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=25

docs: .venv/installed
	$(BIN)/python tools/docs.py

preview: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _docs 8000

lab: .venv/installed
	$(BIN)/jupyter lab nbs

bench: .venv/installed
	@$(foreach f,$(sort $(wildcard benchmarks/*.py)),$(BIN)/python $(f) &&) echo "$(words $(wildcard benchmarks/*.py)) benchmarks run"

weights: .venv/installed
	$(BIN)/python -c 'import sys; from lumbar_nbdev.segmentation import make_weights; from lumbar_nbdev.discs import train_discs; make_weights(sys.argv[1]); train_discs(sys.argv[1])' $(SPIDER)

finder: .venv/installed
	$(BIN)/python -c 'from lumbar_nbdev.keypoints import make_finder; print(make_finder())'

grader: .venv/installed
	$(BIN)/python -c 'from lumbar_nbdev.severity import make_grader; print(make_grader())'

ruler: .venv/installed
	$(BIN)/python -c 'from lumbar_nbdev.sizes import make_ruler; print(make_ruler())'

clean:
	rm -rf $(DEMO) _proc _docs .pytest_cache
