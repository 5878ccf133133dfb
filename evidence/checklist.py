"""The 22 lines of docs/security.md: each is a set of tests, or a measurement of this folder, that passes or does not.

The tests of all lines run in one go; a line passes when none of its tests failed and none is missing. Figures of other
measurements are those of docs/evidence.json, with the commit at which they were taken.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _claim import ROOT, Measured, main
from _figures import results, show

Passes = Callable[[Mapping[str, Any]], bool]
"""What a measurement has to say for its line to pass."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One promise, and how it is checked."""

    name: str
    tests: tuple[str, ...] = ()
    """`file::test`, without `tests/`; all variants of a test count."""
    measured: Mapping[str, Passes] = field(default_factory=dict)
    lacks: str = ""
    """What of the line is not kept; with a text here it does not pass, whatever its tests say."""


def zero(record: Mapping[str, Any]) -> bool:
    return record["value"] == 0


LINES = (
    Line(
        name="no pickle",
        tests=(
            "test_house.py::test_nothing_unpickles",
            "test_models_loading.py::test_a_pickle_only_checkpoint_is_refused_and_never_opened",
            "test_formats.py::test_pickled_arrays_are_never_loaded",
        ),
    ),
    Line(
        name="remote code",
        tests=(
            "test_models_loading.py::test_remote_code_is_off_at_every_call_of_the_library",
            "test_models_loading.py::test_remote_code_needs_a_commit",
            "test_models_loading.py::test_remote_code_of_a_folder_or_of_another_repository_is_refused",
        ),
    ),
    Line(name="binding and token", measured={"access": zero}),
    Line(
        name="host, origin, headers",
        tests=(
            "test_server_security.py::test_every_answer_carries_the_headers",
            "test_server_security.py::test_a_foreign_host_is_refused_on_every_route",
            "test_server_security.py::test_a_foreign_page_cannot_write",
        ),
    ),
    Line(
        name="paths",
        tests=(
            "test_server_security.py::test_no_path_leads_outside",
            "test_server_security.py::test_a_slug_is_a_plain_name",
            "test_server_security.py::test_a_link_out_of_the_work_folder_is_not_followed",
            "test_store.py::test_a_manifest_cannot_point_outside",
            "test_store.py::test_tensor_names_are_only_names",
        ),
    ),
    Line(
        name="limits",
        tests=(
            "test_promises.py::test_what_is_over_a_limit_costs_next_to_nothing",
            "test_parsing.py::test_sixty_megabytes_of_lists_cost_next_to_nothing",
            "test_server_connections.py::test_slow_bodies_are_answered_and_closed",
        ),
    ),
    Line(
        name="scripts",
        tests=(
            "browser/test_hostile.py::test_a_text_never_becomes_a_script",
            "browser/test_hostile.py::test_the_watch_would_notice_a_script",
            "test_bad_input.py::test_a_malicious_label_cannot_command_the_terminal",
        ),
    ),
    Line(
        name="parsing", measured={"bad_input": lambda record: record["value"] == 0 and record["n"] >= 10_000}
    ),
    Line(
        name="whole or not at all",
        tests=(
            "test_store.py::test_killed_at_any_moment_one_whole_version_is_there",
            "test_store.py::test_umask_is_honoured",
            "test_formats_saving.py::test_modes_are_those_of_the_umask",
            "test_files.py::test_a_replacement_that_fails_changes_nothing",
        ),
        measured={"nothing_lost": zero},
    ),
    Line(
        name="corruption",
        tests=(
            "test_store.py::test_every_flipped_byte_is_found_and_named",
            "test_store.py::test_a_flipped_byte_of_the_manifest_never_changes_what_is_read",
            "test_models_loading.py::test_a_flipped_byte_is_found_where_the_checkpoint_carries_sums",
            "test_file_truth.py::test_the_specimen_must_be_as_it_was_shipped",
        ),
    ),
    Line(
        name="resuming",
        tests=("test_training.py::test_a_killed_run_goes_on_bit_for_bit",),
        lacks="training runs in one process: there is no other number of devices to resume on",
    ),
    Line(
        name="repeating",
        tests=(
            "test_promises.py::test_the_same_trace_twice_is_the_same_to_the_bit",
            "test_promises.py::test_a_prompt_in_a_batch_of_eight_has_the_features_that_it_has_alone",
            "test_training.py::test_training_does_not_depend_on_or_disturb_the_callers_random_numbers",
        ),
    ),
    Line(
        name="hooks",
        tests=(
            "test_capture.py::test_an_exception_anywhere_leaves_no_hook_and_the_attention_as_it_was",
            "test_capture.py::test_contexts_nest_and_writes_compose_in_order",
            "test_capture.py::test_threads_never_see_each_others_edits",
        ),
    ),
    Line(
        name="captured tensors",
        tests=("test_models_families.py::test_every_identity_holds_on_the_real_module",),
        measured={"capture_identity": zero},
    ),
    Line(
        name="preflight",
        tests=(
            "test_file_truth.py::test_a_wrong_hook_or_scale_is_refused_or_doubted",
            "test_file_truth.py::test_a_right_dictionary_is_not_doubted",
            "test_file_truth.py::test_a_doubt_stands_on_every_graph",
        ),
    ),
    Line(
        name="steering",
        tests=(
            "test_edits.py::test_cached_and_uncached_generation_agree_under_edits",
            "test_edits.py::test_an_edit_of_strength_zero_and_an_empty_plan_change_no_bit",
        ),
    ),
    Line(
        name="memory",
        tests=(
            "test_price.py::test_the_memory_is_within_a_factor_of_two",
            "test_price.py::test_smaller_sweeps_after_a_failure_give_the_same_graph",
            "test_price.py::test_at_the_end_of_that_road_is_a_clear_error",
            "test_price.py::test_no_memory_is_507_over_http",
        ),
        measured={"trace_price": lambda record: record["value"] == 1},
    ),
    Line(
        name="without a network",
        tests=(
            "test_models_loading.py::test_an_unknown_name_says_so_at_once",
            "test_models_loading.py::test_a_network_that_swallows_everything_costs_under_three_seconds",
            "test_models_loading.py::test_a_cached_snapshot_needs_no_network",
        ),
    ),
    Line(
        name="secrets and egress",
        tests=(
            "test_promises.py::test_no_command_asks_the_network_for_anything",
            "test_promises.py::test_the_token_is_in_no_file_log_or_argument",
            "test_promises.py::test_the_watch_sees_a_connection",
        ),
    ),
    Line(
        name="supply",
        tests=(
            "test_house.py::test_every_dependency_has_a_reason_and_a_pin",
            "test_house.py::test_what_is_installed_is_known_by_its_hash",
            "test_wheel.py::test_the_wheel_holds_everything_that_the_package_has",
        ),
    ),
    Line(
        name="versions",
        tests=("test_house.py::test_the_oldest_and_the_newest_versions_have_a_workflow",),
        lacks="the oldest PyTorch and the development versions were not run on the machine that measures this",
    ),
    Line(
        name="examples",
        tests=(
            "test_wheel.py::test_the_path_of_the_readme_runs_outside_the_checkout",
            "test_wheel.py::test_the_commands_of_the_readme_run_outside_the_checkout",
            "test_wheel.py::test_a_notebook_runs_outside_the_checkout",
            "test_docs_examples.py::test_examples_in_docstrings",
        ),
    ),
)


def measure(seed: int) -> Measured:
    """The share of tests that pass with the network and the page's browser as they are here."""
    wanted = sorted({test for line in LINES for test in line.tests})
    outcomes = run_tests(wanted)
    records = results()
    lines = {str(number): checked(line, outcomes, records) for number, line in enumerate(LINES, start=1)}
    return Measured(
        value=sum(line["passes"] == "yes" for line in lines.values()),
        n=len(lines),
        details={"lines": lines, "tests": sum(map(len, outcomes.values()))},
    )


def checked(line: Line, outcomes: Mapping[str, list[bool]], records: Mapping[str, Any]) -> dict[str, str]:
    """The figure of a line, whether it passes, and if not, why."""
    problems = [line.lacks] if line.lacks else []
    figures = []
    ran = [ok for test in line.tests for ok in outcomes.get(test, [])]
    if line.tests:
        figures.append(f"{sum(ran)} of {len(ran)} tests")
        problems += [f"{test} did not run" for test in line.tests if not outcomes.get(test)]
        problems += [f"{test} fails" for test in line.tests if not all(outcomes.get(test, []))]
    for name, passes in line.measured.items():
        record = records.get(name)
        if record is None or "unavailable" in record:
            problems.append(f"{name} was not measured")
            continue
        figures.append(f"`{name}`: {show(record['value'])} (n {show(record['n'])})")
        if not passes(record):
            problems.append(f"{name} measured {show(record['value'])}")
    if not figures:
        problems.append("nothing checks it")
    return {
        "name": line.name,
        "figure": "; ".join(figures) or "–",
        "passes": "no" if problems else "yes",
        "why": "; ".join(problems),
    }


def run_tests(wanted: list[str]) -> dict[str, list[bool]]:
    """For each test whether its variants passed. A skipped one did not."""
    files = sorted({f"tests/{test.split('::')[0]}" for test in wanted})
    names = " or ".join(sorted({test.split("::")[1] for test in wanted}))
    found: dict[str, list[bool]] = {test: [] for test in wanted}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "loadgroup",
            f"--junitxml={report}",
        ]
        subprocess.run([*command, "-k", names, *files], cwd=ROOT, stdout=sys.stderr)
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            file = case.get("classname", "").removeprefix("tests.").replace(".", "/") + ".py"
            name = f"{file}::{case.get('name', '').split('[')[0]}"
            if name in found:
                found[name].append(not any(child.tag in ("failure", "error", "skipped") for child in case))
    return found


if __name__ == "__main__":
    main(measure, claim="Of 22 promises of security and reliability, so many are kept, each with its check.")
