"""A process that has imported everything and forks a process of its own for every `lcm` command line it is sent.

Each is a real process that can be stopped and killed like any other, but it starts in milliseconds instead of seconds.
Its own arguments are names of further modules to import. Requests and answers are JSON, one a line: `{"arguments",
"environment", "output"}` gives the process's id; `{"poll": id}` its exit code (as subprocess gives it), or null while
it runs.
"""

import importlib
import json
import os
import sys
from typing import Any

import torch._dynamo  # every optimizer imports it
import torch.utils.tensorboard  # noqa: F401

import lexalcm.cli.training_display
import lexalcm.train.run.main  # noqa: F401
from lexalcm.cli import app


def start(arguments: list[str], environment: dict[str, str], output: str) -> int:
    child = os.fork()
    if child:
        return child
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    sys.argv = ["lcm", *arguments]
    code: Any = 1
    try:
        app.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001  the end of a process
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def poll(process: int) -> int | None:
    ended, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = poll(request["poll"]) if "poll" in request else start(**request)
        print(json.dumps(answer), file=answers, flush=True)
