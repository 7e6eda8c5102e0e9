from typing import Any

from typing_extensions import disjoint_base

__all__ = ["ClientAddress", "ProxyProtocolMixIn"]

@disjoint_base  # a tuple has no room for attributes but behind its items
class ClientAddress(tuple[str, int]):
    proxy: Any
    destination: tuple[str, int] | None
    tlvs: tuple[tuple[int, bytes], ...]
    def __new__(
        cls,
        address: tuple[str, int],
        proxy: Any,
        destination: tuple[str, int] | None = None,
        tlvs: tuple[tuple[int, bytes], ...] = (),
    ) -> ClientAddress: ...

class ProxyProtocolMixIn:
    handshake_timeout: float
    proxy_protocol_from: tuple[str, ...]
    def __init_subclass__(cls, **options: Any) -> None: ...
    def serve_forever(self, poll_interval: float | None = 0.5) -> None: ...
    def handle_request(self) -> Any: ...
    def finish_request(self, request: Any, client_address: Any) -> None: ...
