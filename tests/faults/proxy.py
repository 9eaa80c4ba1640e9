"""A TCP proxy whose connections can be cut."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing resets the connection, what was under way is lost."""


class CuttingProxy:
    """Hands bytes to and fro between its own `port` and another one. `cut` resets every connection there is."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._target = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []

    def start(self, target: int) -> None:
        self._target = target
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Reset all connections; how many there were."""
        with self._lock:
            cut, self._open = self._open, []
        for one in cut:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.shutdown(socket.SHUT_RDWR)
        return len(cut) // 2

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        with self._lock:
            self._open += [client, server]
        back = threading.Thread(target=self._hand_on, args=(server, client), daemon=True)
        back.start()
        self._hand_on(client, server)
        back.join()
        with self._lock:
            self._open = [one for one in self._open if one not in (client, server)]
        client.close()
        server.close()

    def _hand_on(self, origin: socket.socket, goal: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := origin.recv(65_536):
                goal.sendall(data)
        for one in (origin, goal):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
