"""Task data in processes of their own: what is asked of the network, and what is said when it does not answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.paths import ROOT
from support.task_data import write_hub_form, write_lines

# Every call for a socket that reaches out is written down.
WATCH = """
import sys
REACHED = []
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        REACHED.append(event)
sys.addaudithook(watch)
"""


def run_alone(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python, without this one's HF_* settings."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    return subprocess.run(
        [sys.executable, "-c", WATCH + textwrap.dedent(program), *map(str, arguments)],
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_no_call_is_made_with_the_data_at_hand(tmp_path: Path) -> None:
    """A whole evaluation, with lm-eval's own stand-in for a model."""
    done = run_alone(
        """
        from pathlib import Path
        from neoxrun.evaluation import data
        found = data.find_tasks(["lambada_openai", "piqa"], Path(sys.argv[1]))
        assert not {"datasets", "lm_eval", "pyarrow", "torch"} & set(sys.modules), "finding takes no heavy import"
        prepared = data.load_tasks(found)
        import datasets.config
        from lm_eval.evaluator import evaluate
        from lm_eval.models.dummy import DummyLM
        assert datasets.config.HF_HUB_OFFLINE
        results = evaluate(DummyLM(), prepared.task_dict, limit=8, bootstrap_iters=0)
        assert results["n-samples"]["lambada_openai"] == {"original": 32, "effective": 8}
        assert results["n-samples"]["piqa"] == {"original": 32, "effective": 8}
        assert not REACHED, REACHED
        """,
        write_hub_form(tmp_path / "data"),
        HF_HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


MISSING = """
    import json, time
    from pathlib import Path
    from neoxrun.errors import DataError
    from neoxrun.evaluation import data
    begin = time.monotonic()
    try:
        data.prepare_tasks(["piqa", "lambada"], Path(sys.argv[1]))
    except DataError as error:
        assert not {"datasets", "lm_eval", "pyarrow", "torch"} & set(sys.modules)
        print(json.dumps([error.message, error.hint, time.monotonic() - begin, REACHED]))
"""


def refused(*arguments: object, **environment: str) -> tuple[str, str, float, list[str]]:
    done = run_alone(MISSING, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


def test_missing_data_on_a_dead_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    data = write_hub_form(tmp_path / "data")
    message, hint, seconds, reached = refused(data, HF_ENDPOINT=address, HF_HOME=str(tmp_path))
    assert message.startswith(f"there is no data for lambada_standard (cimec/lambada), and {address} cannot be reached")
    assert "lambada_test_plain_text.txt" in hint
    assert f"neoxrun download --tasks lambada_standard --to {data}" in hint
    assert "The data of piqa, lambada_openai is present" in hint
    assert reached  # the watch sees what happens
    assert seconds < 20


def test_missing_data_on_a_network_that_swallows_packets(tmp_path: Path) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    asked.append(server.accept())  # and no answer, ever
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        message, hint, seconds, _ = refused(tmp_path, HF_ENDPOINT=address, HF_HOME=str(tmp_path))
        server.shutdown(socket.SHUT_RDWR)
    assert "piqa (baber/piqa), lambada_openai (EleutherAI/lambada_openai/default)" in message
    assert f"neoxrun download --tasks piqa --to {tmp_path}" in hint
    assert f"neoxrun download --tasks lambada_openai --to {tmp_path}" in hint
    assert len(asked) == 1, "one question is enough"
    assert seconds < 20


class HubWithoutDataSets(BaseHTTPRequestHandler):
    """It answers, and knows nothing."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


def test_the_hub_does_not_have_it(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), HubWithoutDataSets) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = run_alone(
            """
            from pathlib import Path
            from neoxrun.errors import DataError
            from neoxrun.evaluation import data
            found = data.find_tasks(["arc_easy"], Path(sys.argv[1]))
            assert found.offline is None
            try:
                data.load_tasks(found)
            except DataError as error:
                print(error.render())
            """,
            tmp_path,
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            HF_HOME=str(tmp_path),
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert "error: the data set allenai/ai2_arc/ARC-Easy cannot be loaded (" in done.stdout
    assert f"{tmp_path}/allenai/ai2_arc/ARC-Easy/test.jsonl" in done.stdout


def test_a_proxy_is_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    message, *_ = refused(tmp_path, HF_ENDPOINT="http://hub.invalid", http_proxy=proxy, HF_HOME=str(tmp_path))
    assert "http://hub.invalid cannot be reached (ConnectError: [Errno 111] Connection refused)" in message


def test_the_user_says_offline(tmp_path: Path) -> None:
    message, _, _, reached = refused(tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert message.endswith("and HF_HUB_OFFLINE is set")
    assert not reached


def test_what_datasets_has_cached_needs_no_hub(tmp_path: Path) -> None:
    """A cache as `datasets` leaves it behind, here made from a local file."""
    program = """
        import shutil
        from pathlib import Path
        import datasets
        folder = Path(sys.argv[1])
        files = {"test": str(folder / "a.jsonl")}
        made = datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "made"))
        before = Path(made["test"].cache_files[0]["filename"]).parent
        after = folder / "datasets" / "EleutherAI___lambada_openai" / "default" / "0.0.0" / "abc"
        shutil.copytree(before, after)
        (after / "json-test.arrow").rename(after / "lambada_openai-test.arrow")
        info = after / "dataset_info.json"
        text = info.read_text().replace('"dataset_name": "json"', '"dataset_name": "lambada_openai"')
        info.write_text(text.replace(f'"config_name": "{made["test"].info.config_name}"', '"config_name": "default"'))
    """
    write_lines(tmp_path / "a.jsonl", {"text": "a b"}, {"text": "c d"})
    done = run_alone(program, tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_alone(
        """
        from pathlib import Path
        from neoxrun.evaluation import data
        prepared = data.prepare_tasks(["lambada_openai"], Path(sys.argv[1]))
        print(list(prepared.task_dict["tasks"]["lambada_openai"].eval_docs), prepared.sources)
        """,
        tmp_path,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "{'text': 'c d'}" in done.stdout
    assert "'from': 'Hugging Face cache'" in done.stdout
