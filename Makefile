# Two commands do everything on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := export/quickstart

.PHONY: demo test test-slow check lint types docs constraints support attacks coverage mutants aarch64 clean

# What is installed is pinned in constraints.txt; `make constraints` refreshes it. The stamp makes this a no-op when nothing changed.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/edgesafe compress --out $(DEMO)
	$(BIN)/edgesafe report $(DEMO) --policy quickstart
	$(BIN)/edgesafe gate $(DEMO) --policy quickstart
	@echo
	@echo "And the control, filters removed at random and nothing trained again, has to fail:"
	@$(BIN)/edgesafe gate $(DEMO) --policy quickstart --variant random-r0.70-s0; code=$$?; \
	if [ $$code -ne 1 ]; then echo "make demo: the control was to fail (1) and ended with $$code" >&2; exit 1; fi
	@echo "The control fails, as it should: a gate that passes everything would prove nothing."
	@echo
	@echo "Look at reports/quickstart/index.html (the report) and $(DEMO)/ (the ONNX files and their evidence)."

test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto

# Slow tests, and tests that need CIFAR-10 (they skip, saying why, without it).
test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m 'slow or data'

check: lint types docs test

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed
	$(BIN)/mypy

# Generated reference must match the code.
docs: $(VENV)/installed
	$(BIN)/python tools/reference.py --check
	$(BIN)/python tools/support_table.py --check --fast

# Really prune, export and compare every architecture of docs/support.md (tens of minutes).
support: $(VENV)/installed
	$(BIN)/python tools/families.py
	$(BIN)/python tools/support_table.py

constraints:
	$(PYTHON) -m venv $(VENV).pins
	$(VENV).pins/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e '.[all,dev,ray]'
	$(VENV).pins/bin/python tools/pins.py > constraints.txt
	rm -rf $(VENV).pins

# Every file that edgesafe reads, damaged 100,000 times from fixed seeds; `make test` runs 3,000. Interrupted, it goes on
# with the targets that build/attacks.jsonl does not hold yet.
attacks: $(VENV)/installed
	mkdir -p build
	EDGESAFE_ATTACKS=100000 EDGESAFE_ATTACKS_LOG=build/attacks.jsonl \
	$(BIN)/python -m pytest -v -n 0 -p no:randomly tests/attacks -o timeout=3600
	$(BIN)/python tools/attacks_table.py build/attacks.jsonl --write

# Lines and branches that the fast tests execute, room by room, into docs/coverage.md.
coverage: $(VENV)/installed
	mkdir -p build && rm -f .coverage.* .coverage
	$(BIN)/python -m coverage run -m pytest -q -n 2
	$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage json -q -o build/coverage.json
	$(BIN)/python tools/coverage_table.py build/coverage.json --write

# How many small faults the tests of what decides and proves notice: a seeded sample of 300, half an hour.
mutants: $(VENV)/installed
	$(PYTHON) -m venv $(VENV).mutants
	$(VENV).mutants/bin/python -m pip install --quiet --disable-pip-version-check cosmic-ray
	$(BIN)/python tools/mutation.py --cosmic-ray $(VENV).mutants/bin/cosmic-ray --work build/mutants

# The ONNX files of `make demo` under an emulated aarch64 processor: parity only, never a speed. Needs Debian's apt-get.
aarch64: $(VENV)/installed
	$(BIN)/python tools/aarch64.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
