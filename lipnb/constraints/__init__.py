"""Part II: constraints on weights, as torch parametrizations."""
