"""At every hook point of every family: edits that do nothing leave no trace, and one that adds really adds."""

import pytest
import torch
from torch import Tensor

from mistudio.instrument.attach import Attached
from mistudio.instrument.compiled import CompiledEdits, Nameable, NamedDirection, compile_edits
from mistudio.instrument.edits import Edits
from mistudio.instrument.layout import Layout
from mistudio.instrument.readouts import ProjectionReadout
from mistudio.instrument.session import Session
from mistudio.instrument.table import ColumnEdits, EditTable, GroupEdits, PassEdits, RowEdits, RowSlice
from mistudio.instrument.where import plain_prompt
from mistudio.subject import HookPoint, ResolvedHook, resolve_hooks, spliced
from tests.support.families import CAUSAL, PLACES
from tests.support.generating import ids_of, subject_of

TOKENS, EDITED = 9, 4  # in a row; the place that is edited
STRENGTH = 3.0
CAP = -50.0  # less than any projection is
# An expert multiplies the tokens that are sent to it as one matrix: which they are rounds the others otherwise.
ROUNDED = {"mixtral": 1e-5}


class Place:
    """A hook point in a model, a direction there, and passes over two rows with hooks that do what a table says."""

    def __init__(self, family: str, kind: str) -> None:
        self.subject, self.session = subject_of(family), Session(subject_of(family))
        (self.hook,) = resolve_hooks(self.subject, [HookPoint(kind, 1)])
        self.vector_D = torch.randn(self.hook.width, generator=torch.Generator().manual_seed(1))
        self.ids_RT = torch.tensor([ids_of(TOKENS, 1), ids_of(TOKENS, 2)])

    @torch.inference_mode()
    def logits(self) -> Tensor:
        logits_RTV: Tensor = self.subject.model(self.ids_RT).logits
        return logits_RTV

    def edited(self, edits: PassEdits | None) -> Tensor:
        with Attached(self.session) as attached:
            return attached.run(edits, (2, TOKENS), self.logits)[0]

    def compiled(self, **edit: object) -> CompiledEdits:
        named = NamedDirection(self.hook, self.vector_D, "direction")
        body = {"op": "add", "direction": "it", "where": {"positions": [EDITED]}, **edit}
        return compile_edits(
            Edits.model_validate({"edits": [body]}), Nameable(self.session, directions={"it": named}.__getitem__)
        )

    def of_second_row(self, compiled: CompiledEdits) -> PassEdits | None:
        """Edits of the second row alone, as an engine makes them."""
        prompt = plain_prompt(self.ids_RT[1].tolist(), frozenset())
        factor_TJ = RowEdits(compiled, prompt).factors(torch.arange(TOKENS).numpy(), prompt.exempt_P)
        rows = [RowSlice(None, None), RowSlice(compiled, factor_TJ)]
        return EditTable(self.session).edits(rows, Layout.side_by_side([TOKENS, TOKENS]))


def zeros(hook: ResolvedHook) -> list[GroupEdits]:
    """Every way of changing something, by nothing."""
    nothing_RTD = torch.zeros(2, TOKENS, hook.width)
    write_UD = torch.eye(hook.width)[:3]
    factor_RTU = torch.zeros(2, TOKENS, 3)
    columns = ColumnEdits(ProjectionReadout(write_UD), None, write_UD, torch.zeros(2, 1, 3), None, None, factor_RTU)
    return [
        GroupEdits(None, nothing_RTD, None, ()),
        GroupEdits(None, None, nothing_RTD, ()),
        GroupEdits(None, None, None, (columns,)),
    ]


@pytest.mark.parametrize(("family", "kind"), PLACES)
def test_edits_that_do_nothing_give_the_very_logits_of_the_model_untouched(family: str, kind: str) -> None:
    place = Place(family, kind)
    clean_RTV = place.logits()
    nowhere = place.compiled(strength=STRENGTH, where={"positions": [TOKENS + 5]})
    assert place.of_second_row(nowhere) is None
    assert torch.equal(place.edited(None), clean_RTV)
    groups = zeros(place.hook)
    for some in (*((group,) for group in groups), tuple(groups)):
        assert torch.equal(place.edited(PassEdits({place.hook.point: some}, {}, {})), clean_RTV)
    assert torch.equal(place.logits(), clean_RTV)


@pytest.mark.parametrize(("family", "kind"), PLACES)
def test_what_is_added_for_a_row_at_a_token_is_added_there_and_nowhere_else(family: str, kind: str) -> None:
    place = Place(family, kind)
    clean_RTV = place.logits()
    for body in ({"strength": STRENGTH}, {"strength": STRENGTH, "unit": "relative"}, {"op": "cap", "value": CAP}):
        compiled = place.compiled(**body)
        edited_RTV = place.edited(place.of_second_row(compiled))
        same = {"rtol": ROUNDED.get(family, 0), "atol": ROUNDED.get(family, 0)}
        torch.testing.assert_close(edited_RTV[0], clean_RTV[0], **same)
        assert not torch.allclose(edited_RTV[1, EDITED:], clean_RTV[1, EDITED:], rtol=1e-3, atol=1e-3)
        if family in CAUSAL:
            torch.testing.assert_close(edited_RTV[1, :EDITED], clean_RTV[1, :EDITED], **same)
        with spliced(place.subject, place.hook, lambda value, body=body: by_hand(value, place.vector_D, body)):
            expected_RTV = place.logits()
        torch.testing.assert_close(edited_RTV, expected_RTV, rtol=1e-4, atol=1e-4)


def by_hand(value_RTD: Tensor, vector_D: Tensor, body: dict[str, object]) -> Tensor:
    """The same edit, written down."""
    changed_RTD, x_D = value_RTD.clone(), value_RTD[1, EDITED]
    unit_D = vector_D / vector_D.norm()
    if body.get("op") == "cap":
        changed_RTD[1, EDITED] += ((x_D @ unit_D).clamp(max=CAP) - x_D @ unit_D) * unit_D
    elif body.get("unit") == "relative":
        changed_RTD[1, EDITED] += STRENGTH * x_D.norm() * unit_D
    else:
        changed_RTD[1, EDITED] += STRENGTH * vector_D
    return changed_RTD
