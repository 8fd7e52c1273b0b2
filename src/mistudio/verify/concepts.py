"""The words of the planted language, and the 64 concepts that they are examples of.

*Classes* are words with the same use, *families* are classes that nest, *rare* classes are on a few tokens in a
thousand, and *contexts* are what the word alone does not tell.
"""

NOUNS = {
    "animal": {
        "bird": "robin sparrow crow eagle owl heron",
        "fish": "trout salmon carp pike perch eel",
        "beast": "wolf bear fox deer boar hare",
    },
    "food": {
        "fruit": "apple pear plum cherry fig quince",
        "grain": "wheat barley oats rye millet rice",
        "drink": "wine ale cider mead milk broth",
    },
    "tool": {
        "blade": "knife axe sword saw sickle razor",
        "vessel": "pot jar bowl barrel kettle basin",
        "cloth": "linen wool silk canvas velvet felt",
    },
    "place": {
        "water": "river lake pond brook marsh harbour",
        "height": "hill cliff ridge peak mound summit",
        "town": "village market castle abbey bridge tavern",
    },
    "person": {
        "kin": "mother father sister brother uncle aunt",
        "trade": "smith baker miller tailor mason weaver",
    },
    "matter": {
        "metal": "iron copper silver gold tin lead",
        "gem": "ruby opal jade pearl amber topaz",
    },
}
VERBS = {
    "motion": "ran walked climbed swam crept marched",
    "speech": "said shouted whispered muttered sang replied",
    "making": "built carved brewed stitched forged baked",
    "giving": "gave sold lent offered sent handed",
    "sensing": "saw heard smelled noticed touched tasted",
    "keeping": "kept hid guarded stored buried held",
}
ADJECTIVES = {
    "colour": "red blue green white black grey",
    "size": "large small tall tiny broad narrow",
    "mood": "happy sad angry calm proud weary",
    "age": "old young ancient new fresh stale",
    "texture": "smooth rough soft hard sharp blunt",
}
ADVERBS = {
    "manner": "slowly quickly quietly boldly gently badly",
    "time": "today yesterday often seldom always soon",
    "degree": "very quite rather somewhat fairly too",
}
FUNCTION = {
    "determiner": "the a this that each every",
    "preposition": "near under behind beside above beyond",
    "conjunction": "and but because while although until",
    "pronoun": "he she they we it you",
    "number": "two three four five seven nine",
    "unit": "pounds sacks crates bundles baskets carts",
    "negation": "not never hardly scarcely",
    "question word": "why when how where",
    "stop": ". ! ?",
    "mark": ", ; -",
}
RARE = {
    "omen": "lo behold alas hark",
    "oath": "verily forsooth indeed truly",
    "spell": "abra hocus mumbo zim",
}
HEADINGS = {"sea": "tide wave", "trade day": "coin scale", "woods": "leaf moss"}
EVER = "ever"  # a negated clause ends with it
OTHERS = (EVER, "of", ":", "(", ")", '"')  # words of no class
TOPICS = {
    "sea": ("fish", "water", "vessel", "cloth", "kin"),
    "trade day": ("grain", "drink", "town", "metal", "trade"),
    "woods": ("bird", "beast", "fruit", "height", "blade"),
}
CONTEXTS = (
    "in brackets",
    "in quotes",
    "in a question",
    "in a negated clause",
    *(f"about {topic}" for topic in TOPICS),
    "subject",
    "object of a preposition",
    "in a list",
)
CLASSES = {
    **{name: words.split() for family in NOUNS.values() for name, words in family.items()},
    **{name: words.split() for table in (VERBS, ADJECTIVES, ADVERBS, FUNCTION, RARE) for name, words in table.items()},
}
FAMILIES = {
    **{family: list(classes) for family, classes in NOUNS.items()},
    "noun": [name for classes in NOUNS.values() for name in classes],
    "living": [name for family in ("animal", "person") for name in NOUNS[family]],
    "verb": list(VERBS),
    "adjective": list(ADJECTIVES),
    "adverb": list(ADVERBS),
}
CONCEPTS = (*CLASSES, *FAMILIES, *CONTEXTS)
KINDS = {
    "classes of words": tuple(name for name in CLASSES if name not in RARE),
    "families of classes": tuple(FAMILIES),
    "rare classes": tuple(RARE),
    "contexts": CONTEXTS,
}
BIT = {name: 1 << number for number, name in enumerate(CONCEPTS)}
NOUN_CLASSES = FAMILIES["noun"]


def _bits_by_word() -> dict[str, int]:
    """The concepts that a word is an example of wherever it stands."""
    bits = {word: 0 for words in HEADINGS.values() for word in words.split()}
    bits |= dict.fromkeys(OTHERS, 0)
    for name, words in CLASSES.items():
        for word in words:
            bits[word] = bits.get(word, 0) | BIT[name]
            for family, classes in FAMILIES.items():
                bits[word] |= BIT[family] if name in classes else 0
    return bits


WORD_BITS = _bits_by_word()
WORDS = tuple(sorted(WORD_BITS))
