"""What each number means, as data: one wording for the report, the command line and the docs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFINITIONS", "Definition"]


@dataclass(frozen=True)
class Definition:
    """One number of a :class:`Summary`.

    Attributes:
        field: its field in the summary.
        symbol: the short name in a table's head.
        name: the full name.
        formula: over ``R[i][j]``, the score on task ``j`` after step ``i``, both from 0.
        reading: what a large or a negative value says.
        undefined: when it has no value.
        source: the paper.
        signed: whether it is a difference of scores, so that 0 means no change.
        loss: whether a smaller value is the better one although scores are not.
    """

    field: str
    symbol: str
    name: str
    formula: str
    reading: str
    undefined: str
    source: str
    signed: bool = False
    loss: bool = False


_GEM = "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory for Continual Learning"

DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        field="acc",
        symbol="ACC",
        name="average accuracy",
        formula="mean over j of R[T-1][j]",
        reading="how good the model is on all tasks at the end",
        undefined="when a cell of the last row was not measured",
        source=_GEM,
    ),
    Definition(
        field="bwt",
        symbol="BWT",
        name="backward transfer",
        formula="mean over j < T-1 of R[T-1][j] - R[j][j]",
        reading="what later learning did to earlier tasks; negative where they were forgotten",
        undefined="with one task, or when a cell of the diagonal or of the last row was not measured",
        source=_GEM,
        signed=True,
    ),
    Definition(
        field="forgetting",
        symbol="forgetting",
        name="forgetting",
        formula="mean over j < T-1 of (max over l = j..T-2 of R[l][j]) - R[T-1][j]",
        reading="how far each task fell from its best; negative where tasks only gained",
        undefined="with one task, or when the last cell or all earlier cells of a task were not measured",
        source="Chaudhry et al. 2018, Riemannian Walk for Incremental Learning, eq. 3 (rows from j on)",
        signed=True,
        loss=True,
    ),
    Definition(
        field="fwt",
        symbol="FWT",
        name="forward transfer",
        formula="mean over j >= 1 of S[j] - b[j]",
        reading=(
            "what earlier learning did for a task before its own: S[j] is R[j-1][j], or the score before the "
            "first training step on j where the head had no output for j earlier; b[j] is the untouched "
            "base, its head started the same way"
        ),
        undefined="with one task, or when S[j] or b[j] was not measured for one j >= 1",
        source=_GEM,
        signed=True,
    ),
    Definition(
        field="learning_accuracy",
        symbol="LA",
        name="learning accuracy",
        formula="mean over j of R[j][j]",
        reading="how well each task was learned when it came; plasticity",
        undefined="when a cell of the diagonal was not measured",
        source="Riemer et al. 2019, Learning to Learn without Forgetting by Maximizing Transfer",
    ),
    Definition(
        field="average_incremental_accuracy",
        symbol="AIA",
        name="average incremental accuracy",
        formula="mean over k of (mean over j <= k of R[k][j])",
        reading="how good the model was on the tasks so far, over the whole sequence",
        undefined="when a cell on or below the diagonal was not measured",
        source="Rebuffi et al. 2017, iCaRL: Incremental Classifier and Representation Learning",
    ),
)
