# make demo            upgrade a running BGP monitor, and see that nothing is lost
# make test            the tests
# make lint, types     the other checks
# make bench           figures, ours beside others' in turn; BENCH='--only 7,8' for some
# make soak            the long programmes: many upgrades, kills and simulations in a row
# make test PYTHON=python3.12     with another interpreter

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready-$(subst /,_,$(PYTHON))

.PHONY: help demo test lint types bench soak
.NOTPARALLEL:

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

demo: $(READY)
	@$(BIN)/livetag demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m tests.benchmarks $(BENCH)

soak: $(READY)
	$(BIN)/python -m pytest -q -s -m slow tests/stories tests/simulation
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow tests --ignore=tests/stories --ignore=tests/simulation --ignore=tests/benchmarks

# Done once, and again when pyproject.toml or PYTHON changes.
$(READY): pyproject.toml .ci/venv
	@sh .ci/venv '$(PYTHON)'
	@rm -f .venv/ready-*
	@touch $@
