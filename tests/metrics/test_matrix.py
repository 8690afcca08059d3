from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contpeft.errors import SpecError
from contpeft.metrics import Matrix

TASKS = ("mail", "chat", "sms")


def test_from_cells_puts_each_score_in_its_row_and_column_and_leaves_gaps() -> None:
    m = Matrix.from_cells(TASKS, [(2, "mail", 0.3), (0, "chat", 0.1), (1, "chat", 0.5), (1, "chat", 0.5)])
    assert m.rows == ((None, 0.1, None), (None, 0.5, None), (0.3, None, None))
    assert m.last == (0.3, None, None)
    assert m.diagonal == (None, 0.5, None)
    assert m.column(1) == (0.1, 0.5, None)


def test_to_json_keeps_gaps_as_null() -> None:
    m = Matrix.from_cells(["a", "b"], [(1, "a", 0.25)])
    assert m.to_json() == {"tasks": ["a", "b"], "rows": [[None, None], [0.25, None]]}


def test_negated_turns_every_sign_and_nothing_else() -> None:
    m = Matrix(("a", "b"), ((0.5, None), (-2.0, 1.0)))
    assert m.negated() == Matrix(("a", "b"), ((-0.5, None), (2.0, -1.0)))


@given(st.permutations([(i, task, i + 10.0 * j) for i in range(3) for j, task in enumerate(TASKS)]))
def test_from_cells_does_not_depend_on_the_order(cells: list[tuple[int, str, float]]) -> None:
    before = list(cells)
    m = Matrix.from_cells(TASKS, cells)
    assert m.rows == ((0.0, 10.0, 20.0), (1.0, 11.0, 21.0), (2.0, 12.0, 22.0))
    assert cells == before


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([(0, "mial", 1.0)], "no task 'mial' in the matrix; did you mean 'mail'?"),
        ([(3, "mail", 1.0)], "no step 3 in a matrix of 3 tasks; steps go from 0 to 2"),
        ([(-1, "mail", 1.0)], "no step -1 in a matrix of 3 tasks; steps go from 0 to 2"),
        (
            [(0, "mail", 0.5), (0, "mail", 0.6)],
            "score after step 0 on task 'mail' is given as 0.5 and as 0.6; keep one of them",
        ),
        (
            [(1, "sms", math.nan), (1, "sms", math.nan)],
            "score after step 1 on task 'sms' is nan; leave the cell out if it was not measured",
        ),
        (
            [(1, "sms", -math.inf)],
            "score after step 1 on task 'sms' is -inf; leave the cell out if it was not measured",
        ),
    ],
)
def test_from_cells_names_the_cell_it_refuses(cells: list[tuple[int, str, float]], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Matrix.from_cells(TASKS, cells)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("tasks", "rows", "message"),
    [
        ((), (), "a matrix needs at least one task"),
        (
            ("a", "a"),
            ((None, None), (None, None)),
            "task 'a' is in the matrix twice; task names are unique within a sequence",
        ),
        (("a", "b"), ((1.0, 2.0),), "a matrix of 2 tasks needs 2 rows of 2 cells, got rows of [2]"),
        (("a", "b"), ((1.0,), (1.0, 2.0)), "a matrix of 2 tasks needs 2 rows of 2 cells, got rows of [1, 2]"),
        (
            ("a",),
            ((math.inf,),),
            "score after step 0 on task 'a' is inf; leave the cell out if it was not measured",
        ),
    ],
)
def test_a_matrix_checks_its_shape_and_its_scores(
    tasks: tuple[str, ...], rows: tuple[tuple[float | None, ...], ...], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        Matrix(tasks, rows)
    assert str(caught.value) == message
