"""FlowOS: network traffic as flows.

    import flowos

    class Count(flowos.Module):
        protocol, total = "tcp", 0
        def process(self, window):
            self.total += window.length

    engine = flowos.Engine()
    engine.add_port("traffic.pcap")
    engine.attach(Count())
    engine.run()
"""
from flowos._version import __version__
from flowos.config import Config
from flowos.core.connection import Connection, Direction, Endpoint
from flowos.core.pointer import Pointer
from flowos.core.errors import CaptureError, DecoderError, FlowOSError, LimitError, StaleError, UsageError
from flowos.core.patterns import Patterns
from flowos.core.window import DataUnit, Span, Window
from flowos.core.journal import FlowWindow
from flowos.engine import Engine, Flow
from flowos.module import RDONLY, RDWR, Module
from flowos.pull import Reader, open
from flowos.registry import all_decoders, get_decoder, register_decoder, unregister_decoder

__all__ = [
    "CaptureError", "Config", "Connection", "DataUnit", "DecoderError", "Direction", "Endpoint", "Engine", "Flow",
    "FlowOSError", "FlowWindow", "LimitError", "Module", "Patterns", "Pointer", "RDONLY", "RDWR", "ROW", "Reader", "Span", "StaleError",
    "UsageError", "Window", "__version__", "all_decoders", "get_decoder", "open", "register_decoder", "unregister_decoder",
]


def __getattr__(name):
    if name == "ROW":                     # asks for NumPy, which most programs do without
        from flowos.core.window import row_dtype

        return row_dtype()
    raise AttributeError(f"module 'flowos' has no attribute {name!r}")
