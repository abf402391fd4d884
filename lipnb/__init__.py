"""lipnb: Lipschitz regularisation of neural networks, the library under the book."""

__version__ = "0.1.0"
