"""Many answers from one engine, for those who want all of them and have nothing else to do meanwhile."""

from collections.abc import Iterable, Iterator
from itertools import islice

from mistudio.instrument.rows import Generation, Written
from mistudio.instrument.text_engine import TextEngine


def write_all(engine: TextEngine, generations: Iterable[Generation]) -> Iterator[Written]:
    """Each token of answers as it is written, of as many at once as the engine has rows for.

    The next answer begins where one has ended; it may have been ended (:meth:`TextEngine.stop`) by whoever reads this.

    Raises:
        InputError: one cannot be started.
        SubjectError: an edit could not be applied.
    """
    waiting = iter(generations)
    while True:
        begun = list(islice(waiting, engine.free_rows))
        yield from engine.start(begun)
        if not begun and not engine.running:
            return
        yield from engine.step()
