"""From a concept in words to features: by what was said of them."""

from mistudio.correlate.concepts.search import ConceptSearch
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.hits import Found, make_hits
from mistudio.correlate.queries import ConceptQuery, How
from mistudio.correlate.replies import Hit
from mistudio.subject import unedited


def features_of_concept(query: ConceptQuery, dictionary: Dictionary) -> tuple[Hit, ...]:
    """The features whose explanations go best with a concept.

    Raises:
        InputError: nothing was said of the features, or there are no embeddings and they are asked for.
    """
    search = dictionary.concepts("concept")
    return concept_hits(dictionary, search, query.concept, query.top, query.how)


def concept_hits(
    dictionary: Dictionary, search: ConceptSearch, text: str, count: int, how: How | None
) -> tuple[Hit, ...]:
    """What a search finds, as hits; the measure says which way it went."""
    with unedited():  # the loaded model may embed, and be steered beside this
        hits = search.search(text, count, how)
    found = [Found(hit.feature, hit.score, explanation=hit.text, explainer=hit.explainer) for hit in hits]
    measure = how or ("both" if "embedding" in search.ways else "lexical")
    return make_hits(dictionary, measure, found)
