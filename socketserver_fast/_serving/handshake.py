"""Does what is common to mix-ins that read from a connection before its handler does."""

import socket
import threading

from socketserver_fast._serving import order


class HandshakeMixIn:
    """Checks the settings of a server before it serves, and the order of its bases."""

    handshake_timeout = 10  # seconds that a client has, from the start of its handshake

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        for base in cls.__mro__:
            if "_mixin_name" in vars(base):
                order.require_before_models(cls, base)
        order.require_stages(cls)

    def serve_forever(self, poll_interval=0.5):
        """Check the settings, then serve. ValueError or TypeError for settings that cannot work."""
        self._check_settings()
        super().serve_forever(poll_interval)

    def handle_request(self):
        """Check the settings as serve_forever() does, then handle one request."""
        self._check_settings()
        return super().handle_request()

    def _check_settings(self):
        seconds = self.handshake_timeout
        if (isinstance(seconds, bool) or not isinstance(seconds, (int, float))
                or not 0 < seconds <= threading.TIMEOUT_MAX):
            raise ValueError(f"handshake_timeout must be seconds, more than 0, not {seconds!r}")
        if self.socket_type != socket.SOCK_STREAM:
            raise TypeError(f"{type(self).__name__} has no connections: {self._mixin_name} is for "
                            f"servers of SOCK_STREAM")
