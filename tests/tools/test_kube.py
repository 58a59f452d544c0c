"""The API server is asked again after it did not answer: one question lost is not all of them."""

import http.client
import socket
import threading

import pytest

from tools.kube import Api, InstallFailed

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_after_a_question_without_an_answer_the_next_one_is_asked():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        connection = http.client.HTTPConnection(host, port, timeout=0.2)
        api = Api(connection, token="secret", namespace="nsm-system")
        with pytest.raises(InstallFailed, match="timed out"):
            api.get("secrets", "first")
        unheard, _ = listening.accept()
        unheard.close()

        def serve() -> None:
            asked, _ = listening.accept()
            with asked:
                asked.recv(65536)
                asked.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        connection.timeout = 5
        try:
            assert api.get("secrets", "second") == {}
        finally:
            with socket.create_connection(listening.getsockname()):  # ends `serve` if nobody asked
                thread.join()
        connection.close()
