"""The tables' declarations, and the documents that repeat them."""

from pathlib import Path

import pytest

from mistudio.features import (
    CONTEXTS,
    EXPLANATIONS,
    FEATURES,
    LABELS,
    MAP,
    NEIGHBOURS,
    SCORES,
    TRACES,
    TRIALS,
    Table,
    main_figure,
)

DOCS = Path(__file__).parents[3] / "docs" / "concepts"


@pytest.mark.parametrize(
    ("page", "table"),
    [
        *(("finding.md", table) for table in (FEATURES, CONTEXTS, NEIGHBOURS, MAP, TRIALS, TRACES)),
        *(("explanations.md", table) for table in (EXPLANATIONS, LABELS, SCORES)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_the_documents_list_every_column_as_it_is_declared(page: str, table: Table) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert table.markdown() in text, f"{page} is to hold:\n\n{table.markdown()}"
    assert f"`{table.name}" in text


def test_columns_that_are_not_given_are_null_and_unknown_ones_are_refused() -> None:
    rows = MAP.build({"feature": [0, 1], "x": [0.5, 1.5]})
    assert rows.schema.equals(MAP.schema)
    assert rows["x"].to_pylist() == [0.5, 1.5]
    assert rows["cluster"].to_pylist() == [None, None]
    with pytest.raises(KeyError, match="colour"):
        MAP.build({"feature": [0], "colour": ["red"]})


@pytest.mark.parametrize("table", [FEATURES, CONTEXTS, NEIGHBOURS, MAP, TRIALS, TRACES, EXPLANATIONS, LABELS, SCORES])
def test_every_table_begins_with_the_feature_and_names_each_column_once(table: Table) -> None:
    assert table.names[0] == "feature"
    assert len(set(table.names)) == len(table.names)


def test_ids_stand_beside_every_list_of_tokens() -> None:
    for table in (FEATURES, CONTEXTS):
        tokens = [name for name in table.names if name == "tokens" or name.endswith("_tokens")]
        assert tokens
        for name in tokens:
            assert f"{name.removesuffix('tokens')}token_ids" in table.names


def test_the_programs_f1_stands_for_a_feature_else_the_first_figure_and_never_a_control() -> None:
    judged = [("max-activating", "simulation", "correlation"), ("max-activating", "detection", "balanced_accuracy")]
    assert main_figure([*judged, ("program", "program", "f1")]) == ("program", "program", "f1")
    assert main_figure(judged) == judged[1]
    assert main_figure([("token-set", "program", "f1"), ("program", "program-shuffled", "auroc")]) is None
    assert main_figure([]) is None
