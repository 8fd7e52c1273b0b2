"""How much a language model is asked to score one explanation, from the settings alone."""

from mistudio.score.config import ScoreConfig


def most_requests(scorer: str, config: ScoreConfig) -> int:
    """Requests about one explanation, at most; 1 for a scorer of another package, of which nothing is known."""
    judged, examples = config.judged, config.examples
    active = min(judged.num_active, examples.num_active)
    inactive = min(judged.num_inactive, examples.num_random + examples.num_hard_negatives)
    texts = active + inactive
    return {
        "detection": _prompts(texts, judged.per_prompt),
        "fuzzing": 2 * _prompts(active, judged.per_prompt),
        "simulation": config.simulation.num_examples,
        "surprisal": 2 * texts,
        "intruder": inactive,
        "intervention": config.steering.num_prompts,
    }.get(scorer, 1)


def _prompts(texts: int, per_prompt: int) -> int:
    return -(-texts // per_prompt)
