"""Addresses of a cluster's processes."""

from __future__ import annotations

import errno
import socket
import sys

import pytest

from featurestore.worker.supervisor import _reserved_addresses


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port can't be kept for a process that is to come")
def test_an_address_is_kept_for_the_process_until_it_listens_there():
    with _reserved_addresses(2) as addresses:
        assert len(set(addresses)) == 2
        for address in addresses:
            place = ("127.0.0.1", int(address.rpartition(":")[2]))
            with socket.socket() as stranger, pytest.raises(OSError) as refused:
                stranger.bind(place)
            assert refused.value.errno == errno.EADDRINUSE
            # As the listener of a process does it.
            with socket.create_server(place) as listener, socket.create_connection(place):
                listener.accept()[0].close()
