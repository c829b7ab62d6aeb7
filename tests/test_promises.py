"""What bad input gets: every clause of the promise, and the tests that keep it.

The table below is the promise, word for word in short; a clause without a test, or with one that is gone, fails here. The
standard checks (exit code, one line with field, file and a fix, earlier good outputs byte-identical, no temporary file, the next
good run succeeds) stand in `test_bad_input.House.refuses`, for HTTP in `test_serve.is_problem`.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

PROMISES: dict[str, dict[str, str]] = {
    "recipe": {
        "empty file: 3": "test_bad_input.test_a_bad_recipe_is_exit_3_with_line_and_column",
        "unknown key: 3 with suggestion and position": "test_bad_input.test_a_bad_recipe_is_exit_3_with_line_and_column",
        "duplicate key: 3 with both lines": "test_document.test_a_key_written_twice_is_an_error_that_names_both_lines",
        "!!python/object: 4": "test_bad_input.test_a_tag_that_makes_objects_is_refused",
        "BOM and CRLF accepted": "test_bad_input.test_a_byte_order_mark_and_windows_lines_are_accepted",
        "tabs: 3": "test_document.test_a_tab_in_the_indentation_is_refused_with_its_line",
        "latin-1: 3": "test_document.test_latin_1_is_refused_with_its_line",
        "low > high: 3 before data": "test_bad_input.test_a_bad_recipe_is_exit_3_with_line_and_column",
        "a metric that does not fit the task: 3": "test_bad_input.test_a_bad_recipe_is_exit_3_with_line_and_column",
        "n_trials 0, -1, 10^9: 3": "test_bad_input.test_a_bad_recipe_is_exit_3_with_line_and_column",
        "missing target column: 5 with the nearest names": "test_bad_input.test_a_target_that_is_not_there_is_exit_5",
        "a bomb of aliases: 3": "test_bad_input.test_a_bomb_of_aliases_is_refused",
        "a huge recipe, deep nesting, thousands of mistakes: 3 in few words": "test_bad_input.test_a_huge_recipe_is_refused_in_few_words",
    },
    "class_path": {
        "os.system, builtins.eval: 4 and not imported": "test_bad_input.test_a_class_outside_the_list_is_exit_4_and_not_imported",
        "a hundred gadgets at every role": "test_gadgets.test_no_gadget_is_found_at_any_place",
        "a foreign class wherever a recipe names one": "test_gadgets.test_a_foreign_class_is_refused_wherever_a_recipe_names_it",
        "in a configuration": "test_gadgets.test_a_configuration_names_no_foreign_class_either",
        "in an artifact": "test_gadgets.test_an_artifact_changed_by_hand_runs_nothing",
        "(the trap works)": "test_gadgets.test_the_trap_works",
        "missing class: 3 with suggestions; wrong kind: 3": "test_bad_input.test_a_class_that_is_none_is_exit_3",
        "unknown argument: 3": "test_bad_input.test_a_bad_recipe_is_exit_3_with_line_and_column",
        "missing optional package: 3 with the install line": "test_registry.test_a_missing_optional_library_names_the_extra",
        "two plugins with one name: 3": "test_bad_input.test_two_plugins_of_one_name_are_exit_3",
    },
    "SQL": {
        "cycler.__init__.__globals__: 4": "test_bad_input.test_a_query_that_may_not_be_is_refused",
        "' OR 1=1 -- in a parameter is only text": "test_bad_input.test_a_parameter_is_only_text",
        "CTE with DELETE, SELECT INTO, COPY PROGRAM: 4": "test_bad_input.test_a_query_that_may_not_be_is_refused",
        "undefined variable: 3 naming it": "test_templates.test_a_missing_parameter_is_named_with_its_line",
        "include ../../x: 4": "test_bad_input.test_a_query_that_may_not_be_is_refused",
        "empty IN list and 100,000 items work": "test_templates.test_lists_of_any_length_work",
        "every position with every hostile value": "test_templates.test_a_legitimate_value_works_and_a_hostile_one_changes_nothing",
        "every statement that does not only read: 4": "test_sql.test_the_gate_refuses_everything_else",
        "every legitimate one passes": "test_sql.test_the_gate_lets_reading_pass",
        "the session alone does nothing but read": "test_sql.test_the_session_alone_does_nothing_but_read",
        "templates that never end: 4 or 3": "test_template_limits.test_hostile_templates_are_refused_soon_and_with_little_memory",
        "a database that does not answer: 6, nothing trained": (
            "test_bad_input.test_a_database_that_does_not_answer_is_exit_6_and_trains_nothing"
        ),
        "a column that changed type since training: 5 with expected and got": (
            "test_bad_input.test_a_column_that_changed_its_type_since_training_is_exit_5"
        ),
        "duplicate columns from a join: 5": "test_bad_input.test_a_query_that_may_not_be_is_refused",
    },
    "files": {
        "missing: 5": "test_bad_input.test_a_file_that_is_not_there_is_exit_5",
        "forbidden: 5": "test_files.test_missing_and_forbidden_files_are_data_errors",
        "without credentials": "test_bad_input.test_a_foreign_address_is_exit_4_without_its_password",
        "truncated Parquet, flipped footer, zero bytes: 5": "test_bad_input.test_a_torn_parquet_file_is_exit_5",
        "ragged CSV, NUL: 5 with line": "test_bad_input.test_a_broken_csv_file_is_exit_5_with_its_line",
        "zip slip: 4": "test_bad_input.test_an_archive_is_no_artifact",
        "disk full: 7 with the old file intact": "test_bad_input.test_a_full_disk_is_exit_7_and_the_old_output_stays",
        "disk full on a disk of 4 MiB": "test_files.test_a_full_disk_is_exhausted_and_the_old_file_is_intact",
        "read-only folder: 7 before training starts": "test_bad_input.test_a_folder_that_cannot_be_written_is_exit_7_before_training",
        "what was kept and is corrupt: quarantined, rebuilt": "test_review.test_a_damaged_fold_of_an_earlier_attempt_is_made_again",
        "kill -9 at 200 random moments of train": "test_crash.test_two_hundred_random_kills",
        "kill -9 in batch-inference and again: byte-identical": "test_batch.test_kill_9_and_again_gives_the_same_bytes",
        "8 processes on one file: the union": "test_files.test_eight_processes_on_one_lock_lose_no_row",
        "study killed in mid-trial: trial failed on resume, total exact": "test_tune.test_kill_9_with_a_database_as_storage",
    },
    "artifacts": {
        "one flipped bit: 9, nothing deserialised": "test_artifact.test_one_flipped_bit_anywhere_is_named_and_nothing_is_deserialised",
        "at every door": "test_bad_input.test_a_damaged_artifact_is_exit_9_at_every_door",
        "model and preprocessor of different runs: 9": "test_bad_input.test_an_artifact_that_was_arranged_by_others_is_exit_9",
        "run_id=../../x, encoded or doubled: 2": "test_bad_input.test_a_run_is_no_path",
        "another sklearn minor version: a warning with both": "test_artifact.test_another_minor_version_is_a_warning_with_both",
        "links, listed paths that lead out, files added: 9": "test_bad_input.test_an_artifact_that_was_arranged_by_others_is_exit_9",
        "a planted pickle is not read": "test_artifact.test_a_forged_artifact_runs_nothing",
    },
    "HTTP": {
        "empty body, {, wrong type: 400/415/422": "test_serve.test_what_is_no_list_of_records_is_refused",
        "another content type: 415": "test_serve.test_another_content_type_is_415",
        "missing column, null, text in a number: 422 with a pointer": "test_serve.test_a_value_of_another_kind_is_422_with_a_pointer",
        "NaN, Infinity, 1e400: 422": "test_serve.test_numbers_that_are_not_finite_are_422",
        "nested too deep: 400": "test_serve.test_what_is_no_list_of_records_is_refused",
        "zero rows: 200": "test_serve.test_no_rows_are_no_predictions",
        "too many rows: 413": "test_serve.test_too_many_rows_are_413",
        "too many bytes: 413 before buffering": "test_serve.test_too_many_bytes_are_413_before_anything_is_kept",
        "too many bytes while they come": "test_serve.test_a_large_chunked_body_is_refused_while_it_is_still_coming",
        "client gone: no leak": "test_serve.test_a_client_that_leaves_leaves_nothing_behind",
        "SIGTERM under load: nothing lost": "test_serve.test_sigterm_under_load_loses_no_request",
    },
    "environment": {
        "${MISSING}: 3 naming variable and key": "test_bad_input.test_an_unset_variable_is_exit_3_with_variable_and_key",
        "APP_ENV=prod with SQLite stores or without authentication: 3": (
            "test_bad_input.test_production_takes_no_local_store_and_no_open_door"
        ),
        "MLflow down: the run is spooled": "test_tracking.test_a_server_that_goes_down_in_the_middle_loses_nothing",
        "and synced later": "test_commands.test_sync_replays_the_spool",
    },
    "secrets": {
        "no canary in anything that a training writes": "test_canaries.test_what_needs_a_secret_trains_and_writes_none",
        "nor in what a failing one says": "test_canaries.test_what_fails_says_no_secret",
        "nor in what any other command writes": "test_canaries.test_every_other_command_writes_no_secret",
        "nor in what a server answers and logs": "test_canaries.test_a_server_writes_no_secret",
        "a password reaches tracking and nothing else": (
            "test_canaries.test_the_password_of_tracking_reaches_the_server_and_nothing_else"
        ),
        "(a planted leak is found in every form)": "test_canaries.test_a_planted_leak_is_found_in_every_form",
        "every test of the suite is searched": "test_canaries.test_a_test_that_writes_the_canary_of_the_session_fails_it",
    },
}  # fmt: skip

CLAUSES = [(part, clause, test) for part, clauses in PROMISES.items() for clause, test in clauses.items()]


@cache
def functions(module: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize(("part", "clause", "test"), CLAUSES, ids=[f"{part}: {clause}" for part, clause, _ in CLAUSES])
def test_every_clause_has_a_test(part: str, clause: str, test: str) -> None:
    """It is there, it asserts something or hands the asserting on, and nobody skips it outright."""
    module, name = test.split(".")
    found = functions(module).get(name)
    assert found is not None, f"{part}: {clause}: there is no {test}"
    decorators = [ast.unparse(decorator) for decorator in found.decorator_list]
    assert not [line for line in decorators if line.startswith(("pytest.mark.skip(", "pytest.mark.xfail"))], decorators
    body = ast.unparse(found)
    assert any(word in body for word in ("assert", "raises", "refuses", "house.train", "is_problem", "_survives", "_again", "kill"))


def test_no_part_is_forgotten() -> None:
    assert list(PROMISES) == ["recipe", "class_path", "SQL", "files", "artifacts", "HTTP", "environment", "secrets"]
    assert min(map(len, PROMISES.values())) >= 4
