"""The table of planted bugs."""

from tests.mutants.__main__ import ROOT, load


def test_every_planted_bug_still_has_its_place_and_its_tests() -> None:
    mutants, tests = load()
    assert {mutant.room for mutant in mutants} == set(tests)
    named = [path for paths in tests.values() for path in paths]
    named += [mutant.found_by.partition("::")[0] for mutant in mutants if mutant.found_by]
    assert [path for path in named if not (ROOT / path).exists()] == []
