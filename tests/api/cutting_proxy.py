"""A proxy between the API and PostgreSQL that falls silent, or cuts the connection where it hurts most."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.development.databases import Database


class CuttingProxy:
    """Stands between the API and PostgreSQL; when armed with a word, it lets the statement that holds the word be
    carried out, and cuts the connection in place of the answer. While `flows` is cleared, PostgreSQL hears nothing."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.word = b""
        self.cut = threading.Event()
        self.flows = threading.Event()
        self.flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            try:
                while data := client.recv(65_536):
                    self.flows.wait()
                    if self.word and self.word in data:
                        self.word = b""
                        self._swallow(server, client, data)
                        return
                    server.sendall(data)
            except OSError:
                return

    def _swallow(self, server: socket.socket, client: socket.socket, data: bytes) -> None:
        client.shutdown(socket.SHUT_WR)
        server.sendall(data)
        time.sleep(0.3)
        self.cut.set()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            return


@contextmanager
def cutting_proxy(database: Database) -> Iterator[tuple[CuttingProxy, str]]:
    dsn = database.dsn("payments_api")
    parts = conninfo_to_dict(dsn)
    proxy = CuttingProxy(str(parts["host"]), int(str(parts["port"])))
    try:
        yield proxy, make_conninfo(dsn, host="127.0.0.1", port=proxy.port)
    finally:
        proxy.close()
