"""From a feature to features: those that point as it does, fire with it, or are said to be like it."""

from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.hits import Found, make_hits
from mistudio.correlate.of_concept import concept_hits
from mistudio.correlate.queries import FeatureQuery, Relation
from mistudio.correlate.replies import Hit
from mistudio.errors import InputError, NotFound

_TOGETHER: tuple[Relation, ...] = ("correlation", "pmi", "jaccard")
_ALL: tuple[Relation, ...] = ("decoder", *_TOGETHER, "explanation")
_TEXT_CHARACTERS = 2000  # of an explanation that is searched with


def features_of_feature(query: FeatureQuery, dictionary: Dictionary) -> tuple[tuple[Hit, ...], str | None]:
    """The features that go with a feature, by each relation asked for or all that are known; and the index searched.

    Raises:
        NotFound: there is no such feature.
        InputError: a relation is asked for that is not known here.
    """
    width = dictionary.placed.sae.width
    if query.feature >= width:
        message = f"feature: there is no feature {query.feature}; {dictionary.name} has {width:,}, numbered from 0."
        raise NotFound(message)
    hits: list[Hit] = []
    index = None
    for relation in dict.fromkeys(query.relations or _ALL):
        try:
            if relation == "decoder":
                near, index = _decoder(query, dictionary)
                hits += near
            elif relation == "explanation":
                hits += _explained_alike(query, dictionary)
            else:
                hits += _together(query, relation, dictionary)
        except InputError:
            if query.relations is not None:
                raise
    return tuple(hits), index


def _decoder(query: FeatureQuery, dictionary: Dictionary) -> tuple[tuple[Hit, ...], str | None]:
    direction_D = dictionary.placed.sae.W_dec[query.feature].detach().float().cpu().numpy()
    if not direction_D.any():
        message = f"relations: the decoder row of feature {query.feature} is zero, so that it has no direction."
        raise InputError(message)
    directions, index = dictionary.decoder()
    nearest = directions.search(direction_D[None], query.top + 1)
    pairs = zip(nearest.feature_QK[0].tolist(), nearest.cosine_QK[0].tolist(), strict=True)
    found = [Found(other, cosine) for other, cosine in pairs if other != query.feature]
    return make_hits(dictionary, "decoder", found[: query.top]), index


def _together(query: FeatureQuery, relation: Relation, dictionary: Dictionary) -> tuple[Hit, ...]:
    neighbours = dictionary.known(f"relations: {relation}").neighbours(query.feature)
    found = [Found(other, value) for other, value in neighbours.get(relation, [])]
    return make_hits(dictionary, relation, found[: query.top])


def _explained_alike(query: FeatureQuery, dictionary: Dictionary) -> tuple[Hit, ...]:
    """What the search for concepts finds with the feature's own explanation."""
    search = dictionary.concepts("relations: explanation")
    features = dictionary.known("relations: explanation")
    (row,) = features.rows([query.feature], ["text", "label"])
    own = row["text"] or row["label"]
    if not own:
        message = f"relations: nothing was said of feature {query.feature}, so that nothing is like it."
        raise InputError(message)
    hits = concept_hits(dictionary, search, str(own)[:_TEXT_CHARACTERS], min(query.top + 1, 1000), None)
    alike = [hit for hit in hits if hit.feature != query.feature][: query.top]
    return tuple(hit.model_copy(update={"measure": "explanation"}) for hit in alike)
