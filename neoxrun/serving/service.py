"""The work of ranks that serve a program of which they are children: rank 0 answers it, the others follow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from neoxrun.engine.session import Session
from neoxrun.serving.connection import connect
from neoxrun.serving.loop import EngineLoop
from neoxrun.serving.messages import Close, Message, Ready, ServeOptions


def run_service(
    folder: Path,
    session: Session,
    options: ServeOptions,
    stdout: IO[str],
    show_progress: bool,
    announce: Callable[[], None],
) -> None:
    """Serve, as one of the ranks, until the program closes the connection.

    Args:
        folder: the job's, in which the program listens.
        session: this rank's part of the model.
        options: how to serve.
        stdout, show_progress, announce: of every job; not used, since the program shows and answers for itself.
    """
    if not session.mesh.leads:
        session.replica.follow()
        return
    connection = connect(folder)
    loop = EngineLoop(session, connection.send, batch_size=options.batch_size)
    connection.send(Ready(session.replica.stage.vocab_size, session.max_context, session.weights, session.warnings))
    threading.Thread(target=_receive, args=(connection, loop.inbox), daemon=True).start()
    loop.run()
    session.replica.release_followers()
    connection.close()


def _receive(connection: Connection, inbox: SimpleQueue[Message]) -> None:
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):  # the program has ended, or does not want more
        inbox.put(Close())
