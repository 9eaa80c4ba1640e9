.PHONY: demo test check

# The whole road on generated events.
demo:
	python3 dev.py demo

# Linter, formatter, type checker, tests. `make test ARGS="-k lateness"` passes arguments to pytest.
test:
	python3 dev.py test $(ARGS)

# What CI runs.
check:
	bash .ci/run
