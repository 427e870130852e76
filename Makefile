# Two commands; both install what they need. On a machine without make, call
# ./bootstrap demo and ./bootstrap test instead: that is all they do.
.PHONY: demo test clean

demo:
	@./bootstrap demo

test:
	@./bootstrap test

# Remove everything that was made here, except your runs.
clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
