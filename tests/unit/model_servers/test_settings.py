"""Where servers listen."""

import socket

from model_servers.base.settings import listening_socket


def test_connections_send_the_body_of_an_answer_without_waiting_for_the_client_to_acknowledge_its_head() -> None:
    with (
        listening_socket("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
