"""Small wrong changes in the package, and the share of them that the tests notice. Twenty minutes on two cores."""

from __future__ import annotations

from _claim import Measured, main

N = 240


def measure(seed: int) -> Measured:
    """A stratified sample of `N`; `tests/mutants` has the table of changes. What runs past its limit counts as noticed.

    The control runs the same tests with nothing changed: the share of those runs that "noticed" it.
    """
    from tests.mutants import __main__ as mutants

    found = mutants.measure(mutants.ground(), n=N, seed=seed)
    everything = mutants.figures(found.verdicts, lambda _: "all")["all"]
    alarms = [verdict.fate in mutants.NOTICED for verdict in found.controls]
    return Measured(
        value=everything["share"],
        n=everything["n"],
        control=sum(alarms) / len(alarms),
        details={
            **everything,
            "possible": {folder: len(changes) for folder, changes in found.changes.items()},
            "by_package": mutants.figures(found.verdicts, mutants.folder_of),
            "by_change": mutants.figures(found.verdicts, lambda verdict: verdict.change.operator),
            "left_out": list(found.left_out),
            "survivors": [str(verdict.change) for verdict in mutants.survivors(found.verdicts)],
        },
    )


if __name__ == "__main__":
    main(
        measure,
        claim="The tests notice small wrong changes in graphs, interventions, dictionaries and models.",
    )
