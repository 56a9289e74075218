"""Where decoders are found: a file in `flowos.decoders`, an entry point, or registered by hand.

A decoder for protocol "x" is the class with `name = "x"` in `flowos/decoders/x`; third
parties add theirs as entry points of the group "flowos.decoders", or call
`register_decoder`.  Nothing is imported before it is asked for.
"""
import importlib
import pkgutil
from importlib.metadata import entry_points

from flowos.core.errors import DecoderError, UsageError

_registered = {}


def register_decoder(decoder):
    """Register a decoder class for its protocol; it may be used as a class decorator.

    DecoderError: no `name`, no `over`, no `probe`.  UsageError: the protocol has a decoder that was
    registered before.  D3.2 section 4.3.3, RegisterDecoder.
    """
    for attribute in ("name", "over", "probe"):
        if not getattr(decoder, attribute, None):
            raise DecoderError(f"{decoder!r} has no {attribute!r}: a decoder needs name, over and probe")
    if decoder.name in _registered:
        raise UsageError(f"protocol {decoder.name!r} has a decoder already: {_registered[decoder.name]!r}")
    _registered[decoder.name] = decoder
    return decoder


def unregister_decoder(protocol):
    """Take back what `register_decoder` did; the shipped decoder, if any, serves again."""
    if protocol not in _registered:
        raise UsageError(f"no decoder was registered for {protocol!r}")
    del _registered[protocol]


def get_decoder(protocol):
    """Give the decoder class of a protocol, or None.  D3.2 section 4.3.3, GetDecoder.

    >>> get_decoder("http").over
    ('tcp', 'sctp')
    >>> get_decoder("gopher") is None
    True
    """
    if protocol in _registered:
        return _registered[protocol]
    for point in entry_points(group="flowos.decoders"):
        if point.name == protocol:
            return point.load()
    if not protocol.isidentifier():
        return None
    try:
        module = importlib.import_module(f"flowos.decoders.{protocol}")
    except ModuleNotFoundError as error:
        if error.name == f"flowos.decoders.{protocol}":
            return None
        raise
    return _class_in(module, protocol)


def _class_in(module, protocol):
    for value in vars(module).values():
        if isinstance(value, type) and getattr(value, "name", None) == protocol and hasattr(value, "probe"):
            return value
    return None


def all_decoders():
    """Give every decoder there is: {protocol: class}."""
    import flowos.decoders

    names = {point.name for point in entry_points(group="flowos.decoders")}
    names.update(info.name for info in pkgutil.iter_modules(flowos.decoders.__path__))
    names.update(_registered)
    found = {}
    for name in sorted(names):
        decoder = get_decoder(name)
        if decoder is not None:
            found[name] = decoder
    return found
