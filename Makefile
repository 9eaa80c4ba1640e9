.PHONY: demo test check simulate chaos faults

# The whole road on generated events.
demo:
	python3 dev.py demo

# Linter, formatter, type checker, tests. `make test ARGS="-k lateness"` passes arguments to pytest.
test:
	python3 dev.py test $(ARGS)

# What CI runs.
check:
	bash .ci/run

# The fault suite in its long form, an hour of both cores: more kills and histories, longer pauses.
faults:
	FEATURESTORE_TEST_FAULTS=long FEATURESTORE_TEST_KILLS=100 FEATURESTORE_TEST_HISTORIES=2000 \
		python3 dev.py test tests/faults tests/simulation tests/sources tests/integration/test_kill.py

# Short histories in the simulator, as many as all cores can live. `make simulate SEED=1000000 MINUTES=10`.
simulate:
	python3 dev.py setup
	.venv/bin/python -m tests.simulation.run_histories --seed $(SEED) --minutes $(MINUTES)

# Random faults under load on a real broker, then a comparison. `make chaos SEED=7 MINUTES=5`.
SEED ?= 1
MINUTES ?= 20
chaos:
	python3 dev.py setup
	.venv/bin/python -m tests.faults.run_chaos --seed $(SEED) --minutes $(MINUTES)
