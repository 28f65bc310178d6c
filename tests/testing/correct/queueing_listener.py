"""A listener that sends metrics from a thread, so that its hooks never wait."""

import queue
import threading

import pgzoo


class Queueing:
    """Puts the metrics of each update into a queue, from which a thread takes them."""

    def __init__(self):
        self.queue = queue.SimpleQueue()
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self):
        while self.queue.get() is not None:
            pass

    @pgzoo.hookimpl
    def pgzoo_update_done(self, event):
        self.queue.put({name: values.copy() for name, values in event.metrics.items()})

    @pgzoo.hookimpl
    def pgzoo_run_ended(self, event):
        self.queue.put(None)


def create(context):
    return Queueing()


@pgzoo.hookimpl
def pgzoo_register(registry):
    registry.listener("queueing", create, summary="sends metrics from a thread")
