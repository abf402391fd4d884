"""Part III: how large is the Lipschitz constant? Bounds and exact values."""
