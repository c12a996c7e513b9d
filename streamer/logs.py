"""Logs as events with keys: JSON for machines, readable on a terminal, never a credential."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Hashable

    from structlog.typing import EventDict, Processor, WrappedLogger

    from streamer.stages import Clock

__all__ = ["Format", "Repeated", "configure", "redact", "redact_event", "redact_tracebacks"]

Format = Literal["auto", "console", "json", "journal"]

REPEAT_S: Final = 10.0
"""How long repetitions of one fault are summed before they are told again (house style)."""
_MAX_KEYS: Final = 1024
"""Faults remembered at once; beyond it the oldest is forgotten, so that memory is bounded."""

MASK: Final = "***"

# A URL's user and password. "[^/?#:]*:" then anything up to the last "@" also catches a password
# with a raw "/" in it, which is no valid URL but is what people type; 2048 bounds the search.
# One slash is what is left of two where an address was taken for a path.
_LOGIN = re.compile(
    r"(?:://|(?<=[A-Za-z0-9]):/)"
    r"(?P<login>[^/?#:\r\n]{0,2048}+:[^\r\n]{0,2048}|[^/?#\r\n]{1,2048})@(?P<rest>\S*)"
)
# A password may have blanks in it, but "rtsp://a:b@c failed, then rtsp://d:e@f" are two addresses.
_NEXT_ADDRESS = re.compile(r"(?<=[^\S\r\n])(?=[\"'(\[{<]*(?:\w+=)?[A-Za-z][\w+.-]*:/)")
# An address with a query; whoever puts quotes or brackets around it means the whole of it.
_QUERY = (
    r"(?P<opener>[\"'`(\[{<]?)(?P<address>[A-Za-z][\w+.-]{0,30}+:/[^\s?]{0,2048}+)\?(?P<query>\S*)"
)
_CLOSER: Final = {"(": ")", "[": "]", "{": "}", "<": ">"}
# Outside a query only a name tells a secret, as in "/user=a_password=b.sdp", and no sign but white
# space and "&" ends it for sure: a password may have any.
_NAMES = (
    r"\w*(?:token|passw(?:or)?d|passphrase|pass?|pwd|psw|pw|secret|credentials?)[\d_]*"
    r"|\w*auth(?:basic|orization)?"
    r"|\w*(?:api|access)_?key|(?:\w*_)?(?:key|pin|sig|signature|session(?:_?id)?|sid)"
)
_PARAMETER = (
    rf"(?<!\w)(?P<name>(?:{_NAMES})=)"
    r"(?P<value>\"[^\"\r\n]*\"(?![^\s&,;)\]}])|'[^'\r\n]*'(?![^\s&,;)\]}])|[^\s&]+)"
)
_PARAMETERS = re.compile(_PARAMETER, re.IGNORECASE)
_VALUES = re.compile(f"{_QUERY}|{_PARAMETER}", re.IGNORECASE)
_HARMLESS: Final = frozenset(
    {
        *("channel", "chn", "ch", "camera", "cam", "source", "input", "track", "trackid"),
        *("stream", "streamtype", "substream", "subtype", "profile", "inst", "video", "audio"),
        *("codec", "videocodec", "format", "resolution", "size", "width", "height", "rotation"),
        *("fps", "framerate", "rate", "bitrate", "quality", "compression", "action", "mode"),
        *("proto", "protocol", "transport", "transportmode", "unicast", "multicast"),
    }
)
"""Parameters that say which picture of a camera is meant; every maker has names of its own for a
password, so that any other parameter of an address may be one."""
_PLAIN = re.compile(r"[\w./-]*[^\w\s]*")  # the end is punctuation of the text around
_MASKED = re.compile(rf"{re.escape(MASK)}[^\w\s]*")
_PARAMETER_NAME = re.compile(r"[\w.~;-]{1,40}")
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic|digest)\s+[\w.~+/-]{6,}=*")
_SECRET_KEY = re.compile(
    r"(?i)(?:^|[_.-])(?:token|passw(?:or)?d|pass|pwd|passphrase|secret|credentials?"
    r"|api_?key|secret_?key|authorization|cookie)$"
)

_PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""syslog priorities that journald reads from the prefix ``<N>`` of a line (sd-daemon(3))."""


def redact(text: str) -> str:
    """Return the text without credentials.

    Args:
        text: any text: a URL, a message, a traceback.

    Returns:
        the text with ``scheme://***@host`` for a URL with user or password, ``name=***`` for the
        parameters of a URL but those that are known to be harmless, ``token=***`` elsewhere for
        parameters that carry secrets and ``Bearer ***`` for HTTP credentials. When in doubt it
        removes too much: a host name that is lost can be looked up, a password cannot be taken
        back.
    """
    if "@" in text:
        parts = _NEXT_ADDRESS.split(text)
        text = "".join(_LOGIN.sub(_without_login, part) for part in parts)
    if "=" in text or "?" in text:
        text = _VALUES.sub(_without_values, text)
    return _AUTHORIZATION.sub(rf"\1 {MASK}", text)


def _without_login(match: re.Match[str]) -> str:
    """Mask user and password; all of the address where the last "@" may be one of its query."""
    _, asks, query = match["login"].partition("?")
    if asks and "=" in query:
        return f"://{MASK}"
    return f"://{MASK}@{_LOGIN.sub(_without_login, match['rest'])}"


def _without_values(match: re.Match[str]) -> str:
    """Mask the parameters of an address, or one that stands alone."""
    if match["address"] is None:
        return _without_value(match)
    query, tail = _closed(match["query"], match["opener"])
    address = _PARAMETERS.sub(_without_value, match["address"])
    return f"{match['opener']}{address}?{'&'.join(map(_shown, query.split('&')))}{tail}"


def _without_value(match: re.Match[str]) -> str:
    value = match["value"]
    quote = value[0] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else ""
    return f"{match['name']}{quote}{_masked(value[1:-1] if quote else value)}{quote}"


def _closed(query: str, opener: str) -> tuple[str, str]:
    """Part a query from what closes the quotes or brackets around its address."""
    closer = _CLOSER.get(opener, opener)
    end = query.rfind(closer) if closer else -1
    if end < 0 or re.search(r"\w", query[end:]):
        return query, ""
    return query[:end], query[end:]


def _shown(parameter: str) -> str:
    """Return a parameter of an address as it may be shown."""
    name, _, value = parameter.partition("=")
    if name.lower() in _HARMLESS and _PLAIN.fullmatch(value):
        return parameter
    if not parameter or not value.strip("=") or not _PARAMETER_NAME.fullmatch(name):
        return _masked(parameter)
    return f"{name}={_masked(value)}"


def _masked(value: str) -> str:
    """Mask a value; one that is masked keeps the punctuation after it, so that twice is as once."""
    return value if not value or _MASKED.fullmatch(value) else MASK


def _redact_value(value: object) -> object:
    """Redact inside containers; an object of any other kind becomes its redacted text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(k)): _redact_item(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item) for item in value]
    return redact(str(value))


def _redact_item(key: str, value: object) -> object:
    return MASK if value and _SECRET_KEY.search(key) else _redact_value(value)


def redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Processor for structlog: redact every key and value, the rendered traceback among them."""
    return {redact(key): _redact_item(key, value) for key, value in event.items()}


def redact_tracebacks() -> None:
    """Have an exception that nobody caught told without credentials, in whatever thread it rose.

    The interpreter's own hooks print the exception's text as it is, and that may quote an address.
    """

    def told(error: BaseException | None, where: str) -> None:
        if error is not None:
            sys.stderr.write(redact(f"{where}{''.join(traceback.format_exception(error))}"))

    def in_main(_kind: object, error: BaseException, _trace: object) -> None:
        told(error, "")

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, SystemExit):
            told(args.exc_value, f"in thread {args.thread.name if args.thread else 'unknown'}:\n")

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        told(args.exc_value, f"{args.err_msg or 'Exception ignored'}:\n")

    sys.excepthook = in_main
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable


class Repeated:
    """Sums repetitions of a fault, so that it is told at once and then once in ten seconds.

    Pure but for the clock; safe to call from several threads.

        told = repeated.offer(("frame_refused", camera))
        if told is not None:
            log.warning("frame_refused", camera=camera, repeated=told)

    Args:
        clock: where time is taken from.
        interval_s: the distance between two reports of the same fault, seconds.
    """

    def __init__(self, clock: Clock, *, interval_s: float = REPEAT_S) -> None:
        self._clock = clock
        self._interval_ns = int(interval_s * 1e9)
        self._lock = threading.Lock()
        self._seen: dict[Hashable, tuple[int, int]] = {}

    def offer(self, key: Hashable) -> int | None:
        """Take note of one occurrence.

        Args:
            key: what counts as the same fault.

        Returns:
            None if it should not be logged now; else how many occurrences were kept back since
            the last time it was, 0 for the first.
        """
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            told_ns, kept = self._seen.get(key, (now_ns - self._interval_ns, 0))
            if now_ns - told_ns < self._interval_ns:
                self._seen[key] = (told_ns, kept + 1)
                return None
            self._seen.pop(key, None)
            if len(self._seen) >= _MAX_KEYS:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = (now_ns, 0)
            return kept

    def due(self) -> list[tuple[Hashable, int]]:
        """Return the faults that went quiet with occurrences not told yet, and forget them.

        Returns:
            each fault whose interval has passed, with how many occurrences were kept back.
        """
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            over = [k for k, (t, _) in self._seen.items() if now_ns - t >= self._interval_ns]
            counts = [(key, self._seen.pop(key)[1]) for key in over]
        return [(key, kept) for key, kept in counts if kept]


class _ForeignRepeats(logging.Filter):
    """Sums repeated messages of third-party libraries, which know nothing of ``Repeated``."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._repeated = Repeated(clock)

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):  # an event of ours, which came through structlog
            return True
        told = self._repeated.offer((record.name, record.levelno, record.msg))
        if told:
            record.msg = f"{record.msg} ({told} more like it in between)"
        return told is not None


def configure(
    level: str, form: Format = "auto", *, clock: Clock, stream: TextIO | None = None
) -> None:
    """Route structlog, the standard library's logging and warnings to one stream.

    Args:
        level: the least severe level to show: debug, info, warning, error or critical.
        form: "console" to read, "json" for machines, "journal" for JSON with the priority
            journald expects in front; "auto" takes console on a terminal, journal where systemd
            connected the stream to the journal, and JSON elsewhere.
        clock: times the summing of repetitions.
        stream: where to write; standard output when None.

    Raises:
        ValueError: if the level is unknown.
    """
    if level not in _PRIORITIES:
        raise ValueError(f"log level {level!r}: expected one of {', '.join(sorted(_PRIORITIES))}")
    number = logging.getLevelNamesMapping()[level.upper()]
    stream = sys.stdout if stream is None else stream
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    handler = logging.StreamHandler(stream)
    handler.addFilter(_ForeignRepeats(clock))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Plain text without local variables: those would show pictures and credentials.
                structlog.processors.format_exc_info,
                redact_event,
                *_renderers(_choose(form, stream)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in ("uvicorn", "asyncio"):  # their "info" is the noise of starting and stopping
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _choose(form: Format, stream: TextIO) -> Format:
    if form != "auto":
        return form
    if stream.isatty():
        return "console"
    return "journal" if _is_journal(stream) else "json"


def _is_journal(stream: TextIO) -> bool:
    """Tell whether systemd connected the stream to the journal, by $JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stream without a descriptor, as io.StringIO
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _renderers(form: Format) -> list[Processor]:
    if form == "console":
        return [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    json = structlog.processors.JSONRenderer(sort_keys=True)
    return [json if form == "json" else _Prioritised(json)]


class _Prioritised:
    """Renders with the syslog priority in front, which journald strips and files the line under."""

    def __init__(self, renderer: structlog.processors.JSONRenderer) -> None:
        self._renderer = renderer

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        priority = _PRIORITIES.get(str(event.get("level")), _PRIORITIES["info"])
        rendered = self._renderer(logger, method, event)
        text = rendered.decode() if isinstance(rendered, bytes) else rendered
        return f"<{priority}>{text}"
