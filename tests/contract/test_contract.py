"""Every registered part keeps the contract; a newcomer is tested the day it appears."""

from __future__ import annotations

import pytest

from recipeline.checks import parts_and_checks


@pytest.mark.parametrize(("part", "check"), parts_and_checks(), ids=str)
def test_contract(part, check, tmp_path):
    """One part, one check; `recipeline.checks` says what each of them means."""
    check(part, tmp_path)
