"""The simulated testbed: no machine, a prediction."""
