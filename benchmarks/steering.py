"""What steering costs: the same engine, batch and device with edits and without, and beside transformers' generate().

Run as ``python -m benchmarks.steering --store STORE`` with a store that holds an autoencoder of a causal model; takes
the newest one. Prints a table and writes ``build/bench/steering.json``.

All cases run in turns, and each is compared with the case without edits that ran just before it; the middle one of
these ratios is shown. ``clamp, columns alone`` is a clamp with latents that do not compete (the same weights, with a
threshold for each latent): TopK has to compute all latents to know which are active.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks import reporting
from benchmarks.reporting import row
from mistudio.artifacts import Catalog, open_to_read
from mistudio.instrument import Session, open_session
from mistudio.instrument.compiled import CompiledEdits, Nameable, NamedDirection, compile_edits
from mistudio.instrument.edits import Edits
from mistudio.instrument.engine import Engine, Generation
from mistudio.instrument.sampling import Choosing
from mistudio.instrument.session import PlacedAutoencoder
from mistudio.instrument.where import PromptTokens, plain_prompt
from mistudio.sae import SparseAutoencoder, new_autoencoder
from mistudio.sae.config import JumpReLUConfig
from mistudio.subject import HookPoint, resolve_hooks

PROMPT_TOKENS = 24
CLAMPED = 16

Case = Callable[[int], CompiledEdits | None]


class Bench:
    """A session, and cases of edits by number of the row."""

    def __init__(self, session: Session, tokens: int, rounds: int) -> None:
        self.session, self.tokens, self.rounds = session, tokens, rounds
        placed = session.autoencoders[0]
        self.session = Session(session.subject, [placed, _columns_alone(placed)], session.source)
        points = [HookPoint("resid_post", layer) for layer in range(session.subject.num_layers)]
        draw = torch.Generator().manual_seed(0)
        width = session.subject.d_model
        self.directions = {
            f"direction-{hook.point.layer}": NamedDirection(hook, torch.randn(width, generator=draw), str(hook.point))
            for hook in resolve_hooks(session.subject, points)
        }
        self.nameable = Nameable(self.session, ["own", "columns"], directions=self.directions.__getitem__)

    def prompts(self, count: int) -> list[PromptTokens]:
        """Random tokens, which no two rows share."""
        draw = torch.Generator().manual_seed(1)
        vocabulary = self.session.subject.vocab_size
        return [
            plain_prompt(torch.randint(5, vocabulary, (PROMPT_TOKENS,), generator=draw).tolist(), frozenset())
            for _ in range(count)
        ]

    def compiled(self, *edits: dict[str, object]) -> CompiledEdits:
        """Edits for the session."""
        return compile_edits(Edits.model_validate({"edits": edits}), self.nameable)

    def cases(self) -> dict[str, Case]:
        """Edits of each row, by the name of the case."""
        one = self.compiled({"op": "add", "feature": 5, "strength": 1.0})
        layers = [{"op": "add", "direction": name, "strength": 0.01} for name in self.directions]
        every = self.compiled(*layers)
        features = list(range(CLAMPED))
        clamp = self.compiled({"op": "clamp", "features": features, "value": 1.0})
        columns = self.compiled({"op": "clamp", "features": features, "value": 1.0, "autoencoder": "columns"})
        return {
            "one layer": lambda _row: one,
            "all layers": lambda _row: every,
            f"clamp of {CLAMPED}": lambda _row: clamp,
            f"clamp of {CLAMPED}, columns alone": lambda _row: columns,
        }

    def distinct(self, count: int) -> Case:
        """A configuration of its own for each row."""
        width = self.session.autoencoders[0].sae.width
        each = [self.compiled({"op": "add", "feature": n % width, "strength": 1 + n / count}) for n in range(count)]
        return lambda number: each[number]

    def run(self, engine: Engine, prompts: Sequence[PromptTokens], case: Case | None) -> tuple[float, float]:
        """Seconds to the first tokens, and seconds of all steps."""
        generations = [
            Generation(prompt, self.tokens, case(number) if case else None) for number, prompt in enumerate(prompts)
        ]
        start = time.perf_counter()
        engine.start(generations)
        first = time.perf_counter()
        while engine.running:
            engine.step()
        return first - start, time.perf_counter() - first

    def shares(self, rows: int, cases: dict[str, Case]) -> dict[str, tuple[float, float]]:
        """Of each case, tokens a second over those without edits, and seconds to the first token over theirs."""
        prompts = self.prompts(rows)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        with Engine(self.session, rows, PROMPT_TOKENS + self.tokens) as engine:
            self.run(engine, prompts, None)
            for name in cases:
                self.run(engine, prompts, cases[name])
            for _ in range(self.rounds):
                for name, case in cases.items():
                    plain, edited = self.run(engine, prompts, None), self.run(engine, prompts, case)
                    found[name].append((plain[1] / edited[1], edited[0] / plain[0]))
        return {
            name: (statistics.median(each[0] for each in some), statistics.median(each[1] for each in some))
            for name, some in found.items()
        }

    def at_once(self, rows: int) -> float:
        """Tokens a second of so many rows at once, over one at a time."""
        prompts, ratios = self.prompts(rows), []
        with Engine(self.session, rows, PROMPT_TOKENS + self.tokens) as engine:
            for _ in range(self.rounds):
                together = sum(self.run(engine, prompts, None))
                alone = sum(sum(self.run(engine, [prompt], None)) for prompt in prompts)
                ratios.append(alone / together)
        return statistics.median(ratios)

    def beside_generate(self, rows: int) -> float:
        """Tokens a second over those of transformers' generate() on the same rows."""
        prompts, ratios = self.prompts(rows), []
        model = self.session.subject.model
        ids_RT = torch.tensor([prompt.ids for prompt in prompts])
        with Engine(self.session, rows, PROMPT_TOKENS + self.tokens) as engine:
            for _ in range(self.rounds):
                ours = sum(self.run(engine, prompts, None))
                start = time.perf_counter()
                model.generate(
                    ids_RT,
                    attention_mask=torch.ones_like(ids_RT),
                    max_new_tokens=self.tokens,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=0,
                    eos_token_id=None,
                )
                ratios.append((time.perf_counter() - start) / ours)
        return statistics.median(ratios)

    def latencies(self, rows: int, requests: int) -> list[float]:
        """Milliseconds of each step with steered answers of different lengths that come and go."""
        case, prompts = self.distinct(requests), self.prompts(requests)
        waiting = [
            Generation(prompt, 8 + 5 * number % self.tokens, case(number), Choosing(1.0, seed=str(number)))
            for number, prompt in enumerate(prompts)
        ]
        took = []
        with Engine(self.session, rows, PROMPT_TOKENS + 8 + self.tokens) as engine:
            engine.start([waiting.pop()])
            while engine.running:
                start = time.perf_counter()
                arrived = [waiting.pop() for _ in range(min(engine.free_rows, len(waiting)))]
                if arrived:
                    engine.start(arrived)
                engine.step()
                took.append((time.perf_counter() - start) * 1000)
        return took


def _columns_alone(placed: PlacedAutoencoder) -> PlacedAutoencoder:
    """An autoencoder with the same encoder and decoder whose latents do not compete."""
    own = placed.sae
    sae: SparseAutoencoder = new_autoencoder(JumpReLUConfig(width=own.width), own.d_in, own.d_out)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(sae, name).copy_(getattr(own, name))
    sae.norm_limit = own.norm_limit
    return PlacedAutoencoder(sae.eval(), placed.ends, f"{placed.uri}-columns", f"{placed.digest}-columns")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="holds an autoencoder; the newest is taken")
    parser.add_argument("--tokens", type=int, default=64, help="generated by each row")
    parser.add_argument("--rounds", type=int, default=9, help="of all cases; the middle one is shown")
    given = parser.parse_args()
    store = open_to_read(given.store)
    with Catalog(store) as catalog:
        sae = catalog.latest("sae")
    with open_session(sae) as session:
        bench = Bench(session, given.tokens, given.rounds)
        rows = _rows(bench)
        title = f"Steering in {type(session.subject.model).__name__}"
    reporting.publish(
        "steering", title, rows, reporting.describe_machine(), reporting.versions("torch", "transformers")
    )


def _rows(bench: Bench) -> list[reporting.Row]:
    rows = []
    asked = {"one layer": 0.97, "all layers": 0.9}
    for name, (share, first) in bench.shares(16, bench.cases()).items():
        rows.append(_at_least(f"{name} edited, 16 rows", share, "of unsteered", asked.get(name, 0.95)))
        if name == "one layer":
            rows.append(_at_most("time to first token, steered over plain", first, "x", 1.03))
    for count, least in ((64, 0.95), (256, 0.9)):
        ((share, _),) = bench.shares(count, {"": bench.distinct(count)}).values()
        rows.append(_at_least(f"{count} distinct configurations in one batch", share, "of unsteered", least))
    rows.append(_at_least("16 rows against one at a time", bench.at_once(16), "x", 7.0))
    rows.append(_at_least("16 rows against generate()", bench.beside_generate(16), "x", 1.0))
    took = sorted(bench.latencies(16, 200))
    rows.append(_at_most("steered token, p99 at 16 concurrent", took[int(0.99 * len(took))], "ms", 100))
    return rows


def _at_least(what: str, value: float, unit: str, least: float) -> reporting.Row:
    return row(what, round(value, 3), unit, "", least, value >= least)


def _at_most(what: str, value: float, unit: str, most: float) -> reporting.Row:
    return row(what, round(value, 3), unit, "", most, value <= most)


if __name__ == "__main__":
    main()
