"""`lcm` without the seconds that torch takes to import, and small: for tests that type many lines as they are written.

    warm_lcm.py serve SOCKET        imports everything once, then answers each line in a fork of its own
    LCM_SOCKET=... warm_lcm.py ...  a command line: it is run in the server, with this process's files and folder

What is small: every 12th document of the packaged text, 3 training steps, narrow layers in the presets called tiny.
The lines, and what they do, are those of `lcm`.
"""

import array
import contextlib
import json
import os
import socket
import sys

MAX_REQUEST = 1 << 20
STEPS = 3
EVERY_DOCUMENT = 12
TINY = {"width": 64, "num_heads": 2, "ffn_dim": 128, "num_layers": 1}


def ask(arguments: list[str]) -> int:
    """Have a line run; its exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(os.environ["LCM_SOCKET"])
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
        files = array.array("i", [0, 1, 2])
        line = json.dumps(request).encode() + b"\n"
        server.sendmsg([line[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        server.sendall(line[1:])
        return int(server.makefile().readline())


def serve(path: str) -> None:
    """Answer until killed."""
    make_small()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        while True:
            client, _ = server.accept()
            if os.fork():
                client.close()
                with contextlib.suppress(ChildProcessError):
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
            else:
                server.close()
                answer(client)


def answer(client: socket.socket) -> None:
    """Run a line in a child, so that whatever it does to its process is gone with it, and tell its code."""
    first, files, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(first + client.makefile("rb").readline())
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    for target, file in enumerate(files):
        os.dup2(file, target)
    client.close()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    code = 1
    try:
        sys.argv = ["lcm", *request["arguments"]]
        from lexalcm.cli.app import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  it is shown, as it would be
        import traceback

        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def make_small() -> None:
    """Import what commands need, and turn down what takes long."""
    import torch

    from lexalcm.codec.lsa import codec as lsa  # noqa: F401
    from lexalcm.data.sources import sample
    from lexalcm.evaluate.run import evaluation  # noqa: F401
    from lexalcm.pages import data_report  # noqa: F401
    from lexalcm.registries import ARCHITECTURES
    from lexalcm.train import settings
    from lexalcm.train.run import main as run

    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401

    torch.set_num_threads(1)
    read = sample.read_documents
    sample.read_documents = lambda *given, **named: list(read(*given, **named))[::EVERY_DOCUMENT]
    for architecture in ARCHITECTURES.names():
        tiny = ARCHITECTURES.load(architecture).presets["tiny"].sizes
        tiny.update(TINY | ({"context_layers": 1} if "context_layers" in tiny else {}))
    fields = settings.TrainSettings.model_fields
    fields["steps"].default, fields["warmup_steps"].default = STEPS, 1
    settings.TrainSettings.model_rebuild(force=True)
    settings.RunConfig.model_fields["train"].default = settings.TrainSettings()
    settings.RunConfig.model_rebuild(force=True)
    assert run.RunConfig().train.steps == STEPS


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1:]))
