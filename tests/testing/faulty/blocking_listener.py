"""A listener waits in every update, here for a reply that never comes: `returns-promptly`."""

import threading

import pgzoo


class Waiting:
    """Sends the metrics of each update to a server and waits for the reply."""

    @pgzoo.hookimpl
    def pgzoo_update_done(self, event):
        threading.Event().wait()


def create(context):
    return Waiting()


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.listener("blocking-listener", create, summary="waits for a server in every update")
