"""From a vector to features: those whose decoder or encoder rows point as it does.

Shape legend: D width of a hook point.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.hits import Found, make_hits
from mistudio.correlate.queries import VectorQuery
from mistudio.correlate.replies import Hit
from mistudio.directions.artifact import find_direction
from mistudio.errors import InputError

if TYPE_CHECKING:
    from mistudio.instrument.served import Served


def features_of_vector(
    query: VectorQuery, dictionary: Dictionary, served: "Served"
) -> tuple[tuple[Hit, ...], str | None, tuple[str, ...]]:
    """The features that point as a vector does, by each side; the index that was searched; and what is doubtful.

    Raises:
        InputError: the vector has another width than the hook point, is zero, or is of another model.
        NotFound: there is no such direction.
    """
    vector_D, warnings = _vector(query, dictionary, served)
    hits: list[Hit] = []
    searched = None
    for side in dict.fromkeys(query.sides):
        end = dictionary.placed.ends.write if side == "decoder" else dictionary.placed.ends.read
        if len(vector_D) != end.width:
            message = (
                f"vector: it has {len(vector_D):,} components, and activations at {end.point}, where {dictionary.name} "
                f"{'writes' if side == 'decoder' else 'reads'}, have {end.width:,}."
            )
            raise InputError(message)
        if side == "decoder":
            directions, searched = dictionary.decoder()
        else:
            directions = dictionary.encoder()
        nearest = directions.search(-vector_D[None] if query.opposite else vector_D[None], query.top)
        sign = -1 if query.opposite else 1
        pairs = zip(nearest.feature_QK[0].tolist(), nearest.cosine_QK[0].tolist(), strict=True)
        hits += make_hits(dictionary, side, [Found(feature, sign * cosine) for feature, cosine in pairs])
    return tuple(hits), searched, warnings


def _vector(
    query: VectorQuery, dictionary: Dictionary, served: "Served"
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    if query.direction is None:
        vector_D = np.array(query.vector, dtype=np.float64)
        if not np.isfinite(vector_D).all():
            message = "vector: it holds a value that is no finite number."
            raise InputError(message)
        if not vector_D.any():
            message = "vector: it is zero, so that it points nowhere."
            raise InputError(message)
        return vector_D, ()
    found = find_direction(served.store, query.direction)
    found.check_subject(served.session.source)
    hooks = dictionary.placed.ends.hooks
    vector_D = found.vector_D.double().numpy()
    if str(found.hook) in hooks:
        return vector_D, ()
    warning = f"direction {found.name} was made at {found.hook}, and {dictionary.name} is at {' and '.join(hooks)}."
    return vector_D, (warning,)
