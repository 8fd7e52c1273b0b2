"""What each host of a TrainJob runs: torchrun with mistudio in its processes.

``python -m mistudio.cluster.node train --activations ...`` is ``torchrun -m mistudio train --activations ...``. The
Trainer sets torchrun's variables (``PET_NNODES``, ``PET_NPROC_PER_NODE``, ``PET_NODE_RANK``, ...). torchrun ends with
status 1 whatever its processes end with; here that of the one that failed first is kept, so that an error in what was
asked for (2) and a gate (3) are known from other failures.
"""

import sys
from collections.abc import Sequence

_KILLED = 128


def main(arguments: Sequence[str]) -> None:
    """Run torchrun, and end as the first of its processes that failed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = parse_args(["--module", "mistudio", *arguments])  # type: ignore[no-untyped-call]
    try:
        run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _rank, failure = error.get_first_failure()
        code = int(failure.exitcode)
        sys.exit(_KILLED - code if code < 0 else code or 1)


if __name__ == "__main__":
    main(sys.argv[1:])
