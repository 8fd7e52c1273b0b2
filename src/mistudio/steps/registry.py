"""All steps: what the command line, the components and the checks before a run are made from."""

from mistudio.steps.deploying import DEPLOY
from mistudio.steps.explaining import EXPLAIN, SCORE
from mistudio.steps.finding import FIND, FIND_MORE, FIND_PART
from mistudio.steps.gate import FAIL_GATE, GATE
from mistudio.steps.hosts import TRAIN_ON_HOSTS
from mistudio.steps.indexing import INDEX
from mistudio.steps.measuring import EVALUATE, PROBE, STABILITY
from mistudio.steps.monitoring import CALIBRATE
from mistudio.steps.preparing import CAPTURE, INGEST
from mistudio.steps.registering import REGISTER
from mistudio.steps.reporting import COMPARE, REPORT
from mistudio.steps.spec import Step
from mistudio.steps.steering import DIRECTION, STEER_EVALUATE
from mistudio.steps.training import GRID, TRAIN, TRAIN_TOGETHER

_ALL = (
    INGEST,
    CAPTURE,
    TRAIN,
    TRAIN_TOGETHER,
    TRAIN_ON_HOSTS,
    EVALUATE,
    FIND,
    FIND_PART,
    FIND_MORE,
    EXPLAIN,
    SCORE,
    REPORT,
    STABILITY,
    PROBE,
    DIRECTION,
    STEER_EVALUATE,
    CALIBRATE,
    INDEX,
    COMPARE,
    GRID,
    GATE,
    FAIL_GATE,
    REGISTER,
    DEPLOY,
)
STEPS: dict[str, Step] = {step.name: step for step in _ALL}
