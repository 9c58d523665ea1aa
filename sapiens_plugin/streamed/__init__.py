"""The estimator whose weights live in host memory, and what it trains with."""
