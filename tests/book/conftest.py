"""What the tests of all chapters share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Chapters train on one thread; the intervals of their tests were measured so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
