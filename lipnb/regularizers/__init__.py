"""Part II: penalties on the slope of a network, each returning a `Penalty`."""
