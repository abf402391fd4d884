"""Part I: exact values of the quantities that the theory speaks of."""
