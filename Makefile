# Two commands; both install by themselves what they need. On a machine without make, call
# ./bootstrap demo and ./bootstrap test instead: that is all which stands behind them.
.PHONY: demo test clean

demo:
	@./bootstrap demo

test:
	@./bootstrap test

# Everything that was made here, but for your runs.
clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
