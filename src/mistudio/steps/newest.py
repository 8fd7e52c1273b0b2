"""Inputs that the command line fills in with the newest artifact, where they are not given.

A step itself takes what it is given: its recipe says which artifact that was, and a pipeline made again finds the same.
"""

from collections.abc import Mapping
from typing import Any

from mistudio.artifacts import Artifact, open_artifact, open_to_read
from mistudio.steps.spec import Step


def with_newest(step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and for each input that is to be chosen of what was made from another, that one.

    Raises:
        NotFound: there is no such artifact as the other input names.
        StorageError: there is no such store.
    """
    filled = dict(values)
    for each in step.inputs:
        of = values.get(each.newest_of)
        if of and each.newest is not None and not values.get(each.name):
            store = open_to_read(str(values.get("store") or ""))
            made_from = of if isinstance(of, Artifact) else open_artifact(store, str(of).strip())
            newest = each.newest(store, made_from)
            filled[each.name] = None if newest is None else newest.uri
    return filled
