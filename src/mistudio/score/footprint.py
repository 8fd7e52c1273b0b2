"""What scoring explanations holds at its busiest moment, from sizes alone."""

from mistudio.explain.footprint import explain_parts
from mistudio.subject.footprint import Parts


def score_parts(d_model: int, vocab_size: int, width: int, active: float, max_tokens: int, *, on_gpu: bool) -> Parts:
    """Bytes by part, for programs: held-out tokens and what fires on them, as of :func:`explain_parts`.

    The scorer intervention loads the subject as well, and others ask a language model: neither is counted.
    """
    return explain_parts(d_model, vocab_size, width, active, max_tokens, on_gpu=on_gpu)
