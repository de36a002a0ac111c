"""The two subcommands of twistd: kollacast-server and kollacast-client.

This folder and the one above it have no ``__init__.py``: they add to Twisted's own packages.
"""

from twisted.application.service import ServiceMaker

kollacast_server = ServiceMaker(
    "kollacast server",
    "kollacast.command.server",
    "Send one image to many hosts by multicast.",
    "kollacast-server",
)

kollacast_client = ServiceMaker(
    "kollacast client",
    "kollacast.command.client",
    "Receive the image that a kollacast server sends.",
    "kollacast-client",
)
