"""What the core counts: every counter's one-line description, {name: text}, as counters.h has them."""
from flowos.core.state import descriptions

DESCRIPTIONS = descriptions()
