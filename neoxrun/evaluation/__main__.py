"""lm-eval's own command line, with the model ``neoxrun``: ``python -m neoxrun.evaluation run --model neoxrun ...``."""

import sys

from lm_eval.__main__ import cli_evaluate

from neoxrun.errors import NeoxrunError
from neoxrun.evaluation import registered as registered
from neoxrun.terminal import log

if __name__ == "__main__":
    log.set_up(0)
    try:
        cli_evaluate()
    except NeoxrunError as error:
        sys.stderr.write(f"{error.render()}\n")
        sys.exit(error.exit_code)
