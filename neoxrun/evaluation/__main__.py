"""lm-eval's own command line, with the model ``neoxrun``: ``python -m neoxrun.evaluation run --model neoxrun ...``."""

import sys

from lm_eval.__main__ import cli_evaluate

from neoxrun.errors import classify
from neoxrun.evaluation import registered as registered
from neoxrun.terminal import log, streams

if __name__ == "__main__":
    log.set_up(0)
    try:
        cli_evaluate()
    except (Exception, KeyboardInterrupt) as error:
        failure = classify(error)
        if failure.code == "defect":  # of lm-eval or of a task, more likely: lm-eval's users know its tracebacks
            raise
        if isinstance(error, OSError):
            streams.drop_stdout()
        if text := failure.render():
            sys.stderr.write(f"{text}\n")
        sys.exit(failure.exit_code)
