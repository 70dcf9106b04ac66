"""TCP ports for servers that only this machine shall reach."""

import random
import socket

# Below the ports that Linux (32768) and macOS (49152) give to outgoing connections: a kept port from that range could
# be some connection's own end at the very moment a crashed server wants it back.
PORTS = range(20_000, 30_000)
ATTEMPTS_MAX = 200


def is_free(host: str, port: int) -> bool:
    """Tell whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like a server: old connections don't count
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def pick_free_port(host: str) -> int:
    """Return a port on which nothing listens at this instant."""
    for _ in range(ATTEMPTS_MAX):
        port = random.choice(PORTS)  # noqa: S311 - no secret
        if is_free(host, port):
            return port
    raise OSError(f"no free port on {host} among {ATTEMPTS_MAX} tried")
