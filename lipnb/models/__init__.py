"""Networks that the chapters train."""
