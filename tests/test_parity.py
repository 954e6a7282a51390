"""Ours against the reference implementations, here and under other instructions and threads."""

import pytest

from tests import golden, parity


@pytest.mark.parametrize("dtype", golden.LIMITS, ids=str)
@pytest.mark.parametrize("case", parity.CASES)
def test_outputs_equal_the_references(case, dtype):
    found = parity.errors(case, dtype)
    assert found
    assert max(found.values()) < golden.LIMITS[dtype], found


def test_outputs_equal_the_references_whatever_instructions_and_threads():
    for setting, rows in parity.measure_settings():
        assert len(rows) == len(parity.KINDS)
        for row in rows:
            assert row["errors"].keys() == set(parity.SHORT)
            assert max(row["errors"].values()) < parity.limit(row["dtype"]), (setting, row)
