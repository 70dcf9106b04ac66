"""The address that a consumer connects to: the administrator's, with the consumer's own login. Pure."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

# What a consumer needs to reach the same server in the same way; never the administrator's certificates or options.
KEPT = ("sslmode", "sslrootcert", "channel_binding", "target_session_attrs", "hostaddr")
PORT = "5432"


def consumer_dsn(admin: Mapping[str, str], role: str, password: str) -> str:
    """A postgresql:// address. `admin`: parts of the administrator's, as libpq names them; host and dbname at least."""
    hosts = admin["host"].split(",")
    ports = (admin.get("port") or PORT).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    places = ",".join(f"{_host(host)}:{port or PORT}" for host, port in zip(hosts, ports, strict=True))
    kept = {name: admin[name] for name in KEPT if admin.get(name)}
    options = f"?{urlencode(kept)}" if kept else ""
    return f"postgresql://{quote(role)}:{quote(password, safe='')}@{places}/{quote(admin['dbname'], safe='')}{options}"


def _host(host: str) -> str:
    if ":" in host:
        return f"[{host}]"
    return quote(host, safe="")  # the path of a socket, too
