"""Rules tried on recorded traffic before they are switched on: how often each would have fired, and how much is false.

Two figures say how much of it may be false. Where the traffic is known to be clean, all that fired is, and the share of
exchanges has an interval. Where thresholds are calibrated, their bounds on the rate of false positives give a bound for
a rule: a window fires falsely no more often than a binomial count exceeds its share; a set by Markov's inequality.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from scipy.stats import binom

from mistudio.monitor.calibrate.calibration import Calibrated
from mistudio.monitor.calibrate.rates import interval
from mistudio.monitor.records import Exchange
from mistudio.monitor.rules.rule_book import RuleBook
from mistudio.monitor.rules.rules import RateRule, Rule, Rules, SetRule
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.monitor.watch.watching import Watcher

_AT_ONCE = 256
_CONFIDENCE = 0.95


@dataclass
class RuleTrial:
    """How a rule has fared.

    Attributes:
        rule: its name.
        kind: of rule.
        exchanges: that it was for.
        hits: exchanges that it was met in; of a rate, those above the threshold.
        alerts: that it would have told.
        kept_back: alerts that its cool-down kept back.
        examples: ids of the first requests that it would have told of.
        share: of the exchanges, that it was met in, with its 95% interval.
        false_bound: what false alarms are below on clean traffic: of exchanges, or of windows; None: not known.
    """

    rule: str
    kind: str
    exchanges: int = 0
    hits: int = 0
    alerts: int = 0
    kept_back: int = 0
    examples: list[str] = field(default_factory=list)
    share: tuple[float, float, float] = (0.0, 0.0, 1.0)
    false_bound: float | None = None


@dataclass
class Trial:
    """How rules have fared.

    Attributes:
        exchanges: that were read.
        samples: of these.
        unreadable: samples that could not be read.
        seconds: of traffic, from the first to the last exchange.
        rules: one by one.
    """

    exchanges: int = 0
    samples: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    rules: list[RuleTrial] = field(default_factory=list)


def try_rules(
    rules: Rules,
    watch_list: WatchList,
    watcher: Watcher,
    exchanges: Iterable[Exchange],
    known: Mapping[str, Calibrated] | None = None,
    most_examples: int = 5,
) -> Trial:
    """Run rules over traffic; nothing is acted on.

    Args:
        rules: to be tried.
        watch_list: what they name, with its thresholds filled in.
        watcher: reads it.
        exchanges: in the order of the traffic; they may come without end of memory.
        known: what calibrations say of columns, by name.
        most_examples: ids of requests that are told of each rule.

    Raises:
        ConfigError: a rule names a column that is not watched, or one without a threshold.
    """
    book, trial = RuleBook(rules, watch_list), Trial()
    trials = {
        rule.name: RuleTrial(rule.name, rule.kind, false_bound=false_bound(rule, known or {})) for rule in rules.rules
    }
    first = last = None
    for some in _parts(exchanges):
        trial.exchanges += len(some)
        trial.samples += sum(len(exchange.samples) for exchange in some)
        first = some[0].time if first is None else min(first, *(each.time for each in some))
        last = max(each.time for each in some) if last is None else max(last, *(each.time for each in some))
        for seen in watcher.observe(some):
            for alert in book.update(seen):
                if not alert.is_end and len(trials[alert.rule].examples) < most_examples:
                    trials[alert.rule].examples.append(alert.exchange)
    for status in book.status():
        one = trials[status["name"]]
        one.exchanges, one.hits = status["exchanges"], status["hits"]
        one.alerts, one.kept_back = status["alerts"], status["kept_back"]
        if one.exchanges:
            one.share = (one.hits / one.exchanges, *interval(one.hits, one.exchanges, _CONFIDENCE))
    trial.unreadable = watcher.counts["unreadable"]
    trial.seconds = 0.0 if first is None or last is None else last - first
    trial.rules = list(trials.values())
    return trial


def false_bound(rule: Rule, known: Mapping[str, Calibrated]) -> float | None:
    """How often a rule fires falsely at most, by the bounds of its columns' rates.

    Of a rate it is the probability for one window of as many exchanges, taken as independent; of others for one
    exchange with one text. None: a threshold is not calibrated per text, or a window has no number of exchanges.
    """
    if rule.above is not None or not all(name in known and known[name].per == "text" for name in rule.columns):
        return None
    bounds = [known[name].rate_bound for name in rule.columns]
    if isinstance(rule, SetRule):
        return min(sum(bounds) / rule.least, 1.0)
    if isinstance(rule, RateRule):
        size = rule.last_exchanges
        return None if size is None else float(binom.sf(int(rule.share * size + 1e-9), size, bounds[0]))
    return bounds[0]


def _parts(exchanges: Iterable[Exchange]) -> Iterator[Sequence[Exchange]]:
    stream = iter(exchanges)
    while some := list(islice(stream, _AT_ONCE)):
        yield some
