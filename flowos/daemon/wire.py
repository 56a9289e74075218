"""XML-RPC as it is read from strangers: no document types (so no entities), bounded depth and number of values.

The standard library's parser does the work; what is refused is refused before it is expanded.
Whole numbers beyond 32 bits are written as <i8>, which the standard library reads.
"""
import re
import xmlrpc.client

from flowos.core.errors import UsageError

LARGEST = 1 << 20                             # bytes of a request: a configuration of thousands of flows
DEEPEST, MOST = 32, 50_000                    # elements inside one another; in all
CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")    # no characters of XML 1.0


class Parser(xmlrpc.client.ExpatParser):
    """An expat parser without document types, with limits."""

    def __init__(self, target):
        super().__init__(target)
        self.depth = self.count = 0
        self._start = target.start
        self._end = target.end
        self._parser.StartElementHandler = self.start
        self._parser.EndElementHandler = self.end
        self._parser.StartDoctypeDeclHandler = self.refuse
        self._parser.EntityDeclHandler = self.refuse

    def refuse(self, *_what):
        """Refuse a document type, before anything of it is used."""
        raise UsageError("the request declares a document type; none is allowed")

    def start(self, tag, attributes):
        """Count an element."""
        self.depth += 1
        self.count += 1
        if self.depth > DEEPEST or self.count > MOST:
            raise UsageError(f"the request nests more than {DEEPEST} elements, or has more than {MOST}")
        self._start(tag, attributes)

    def end(self, tag):
        """Count its end."""
        self.depth -= 1
        self._end(tag)


class Marshaller(xmlrpc.client.Marshaller):
    """A marshaller that writes numbers of any size, and texts without characters that XML forbids."""

    dispatch = dict(xmlrpc.client.Marshaller.dispatch)

    def dump_number(self, value, write):
        """Write a whole number."""
        kind = "int" if -1 << 31 <= value < 1 << 31 else "i8"
        write(f"<value><{kind}>{value}</{kind}></value>\n")

    def dump_text(self, value, write):
        """Write a text."""
        self.dump_unicode(CONTROL.sub("\ufffd", value), write)

    dispatch[int] = dump_number
    dispatch[str] = dump_text


def read_call(body):
    """Give (method, arguments) of a request's bytes; UsageError says what is wrong with it.

    >>> read_call(write_call("result", (1 << 40,)))
    ('result', [1099511627776])
    >>> read_call(b"<!DOCTYPE x [<!ENTITY a 'b'>]><methodCall/>")
    Traceback (most recent call last):
        ...
    flowos.core.errors.UsageError: the request declares a document type; none is allowed
    """
    values = xmlrpc.client.Unmarshaller(use_builtin_types=True)
    parser = Parser(values)
    try:
        parser.feed(body)
        parser.close()
        arguments, method = values.close(), values.getmethodname()
    except UsageError:
        raise
    except Exception as error:                # expat's, and whatever a wrong value makes the unmarshaller raise
        raise UsageError(f"the request is no XML-RPC call: {type(error).__name__}: {error}") from None
    if not isinstance(method, str):
        raise UsageError("the request names no method")
    return method, list(arguments)


def write_call(method, arguments):
    """Give a request's bytes."""
    return (f"<?xml version='1.0'?>\n<methodCall>\n<methodName>{method}</methodName>\n"
            f"{Marshaller('utf-8', True).dumps(tuple(arguments))}</methodCall>\n").encode()


def write_answer(value):
    """Give a response's bytes: of a value, or of an `xmlrpc.client.Fault`."""
    inner = Marshaller("utf-8", True).dumps(value if isinstance(value, xmlrpc.client.Fault) else (value,))
    return f"<?xml version='1.0'?>\n<methodResponse>\n{inner}</methodResponse>\n".encode()
