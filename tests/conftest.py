"""What tests of several folders ask for."""

import pytest

from tests.threads import threads


@pytest.fixture
def one_thread():
    """As torchrun gives to each of several processes: rounding depends on the number."""
    with threads(1):
        yield
