"""Values that no one means to give, defined once for all fuzzing."""

import json

from hypothesis import strategies as st

LONG = "x" * 5000
LONG_WORDS = "ab, " * 1250
DIGITS = "9" * 5000
DEEP = "[" * 100_000

NUMBERS = (
    *("0", "-1", "-0", "1", "1e400", "-1e400", "nan", "inf", "-inf", "1e-400", "1.5", "0x10", "1_0", "٣", "½"),
    *("2147483647", "2147483648", "9223372036854775808", "99999999999999999999", "1e18", DIGITS, f"-{DIGITS}"),
)
TEXTS = (
    *("", " ", "\t", "\n", ",", ",,", ".", "..", "-", "--", "=", "null", "None", "true", "demo", "\\"),
    *("~nouser", "~nouser/models", "~", "file:", "file://", "s3://bucket/prefix", "http://[", "http://:99999/v1"),
    *("http://localhost:99999/v1", "http://a b/v1", "ftp://x", "//", "C:\\x", "*", "?#%00", "a?b#c", "$(id)"),
    *("/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", "no/such/file.jsonl", "no-such.safetensors", "pipe"),
    *("[/INST]", "[red]x", "\x1b[31mred", "\udc80", "a\udcffb", "\ufeff", "\u202eabc", "é" * 300, "x" * 256, LONG),
    *("a/" * 2000, LONG_WORDS, "sae/0123456789abcdef", "sae/../../x", "sae/0123456789abcdef/", "@", "a@b"),
    *("resid_post.-1", "resid_post.99999999999999999999", "resid_post.1e9", "resid_post.٣", "resid_post", ".3"),
    *("{}", "[]", "{", '{"a":', '{"a": 1, "a": 2}', '{"k": NaN}', '{"k": 1e999}', f'{{"k": {DIGITS}}}', DEEP, '"x"'),
)

numbers = st.sampled_from(NUMBERS) | st.integers().map(str) | st.floats().map(repr)
texts = st.sampled_from(TEXTS) | st.text(max_size=40)
plain = numbers | texts

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(TEXTS) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def argument(text: str) -> str:
    """A text as the kernel can hand it over: bytes without NUL, and at most 128 KiB."""
    return (
        text.replace("\0", "")
        .encode("utf-8", "surrogateescape" if _is_of_bytes(text) else "replace")
        .decode("utf-8", "surrogateescape")[:120_000]
    )


def json_texts(values: st.SearchStrategy[object] = json_values) -> st.SearchStrategy[str]:
    """Texts of JSON: of any value, and broken ones."""
    return values.map(json.dumps) | st.sampled_from([text for text in TEXTS if text[:1] in ("{", "[", '"')])


def _is_of_bytes(text: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff" for character in text)


@st.composite
def changed(draw: st.DrawFn, document: object) -> object:
    """A document with one of its values replaced by a hostile one, or left out."""
    if isinstance(document, dict) and document and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(document)))
        rest = {each: value for each, value in document.items() if each != name}
        return rest if not draw(st.integers(0, 4)) else {**rest, name: draw(changed(document[name]))}
    if isinstance(document, list) and document and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(document) - 1))
        return [*document[:place], draw(changed(document[place])), *document[place + 1 :]]
    return draw(json_values)


@st.composite
def hurt(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes of a file, cut, or with some of them replaced."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(start + 64, len(content))))
    put = draw(st.binary(max_size=64) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
    return content[:start] if not draw(st.integers(0, 4)) else content[:start] + put + content[end:]
