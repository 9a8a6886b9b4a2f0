"""What code gave, with the names of E2B's interpreter."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Union

from .. import CodeContext, CodeError, CodeResult
from .. import Execution as Gathered
from ._errors import NotSupportedException

FORMS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
}
"""E2B's names of the forms that a value has."""


@dataclass
class OutputMessage:
    """Output as it came."""

    line: str
    timestamp: int
    """Nanoseconds since 1970."""
    error: bool = False
    """Whether it was standard error."""

    def __str__(self) -> str:
        return self.line


@dataclass
class ExecutionError:
    """What the code raised."""

    name: str
    value: str
    traceback: str

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(self.__dict__)


@dataclass
class Logs:
    """What the code wrote."""

    stdout: list[str] = field(default_factory=list[str])
    stderr: list[str] = field(default_factory=list[str])

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(self.__dict__)


@dataclass
class Result:
    """A value that was shown, in the forms that it has."""

    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    svg: str | None = None
    png: str | None = None
    jpeg: str | None = None
    pdf: str | None = None
    latex: str | None = None
    json: Any = None
    javascript: str | None = None
    is_main_result: bool = False
    extra: dict[str, str] = field(default_factory=dict[str, str])

    def formats(self) -> Iterable[str]:
        """The names of its forms."""
        return [*(name for name in FORMS if getattr(self, name) is not None), *self.extra]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __str__(self) -> str:
        return f"Result({self.text})" if self.text else f"Result(Formats: {self.formats()})"


@dataclass
class Execution:
    """What code gave."""

    results: list[Result] = field(default_factory=list[Result])
    logs: Logs = field(default_factory=Logs)
    error: ExecutionError | None = None

    @property
    def text(self) -> str | None:
        """The value of its last expression."""
        return next((result.text for result in self.results if result.is_main_result), None)


Context = CodeContext
"""An interpreter with its own state."""
MessageHandler = Callable[[OutputMessage], object]
ResultHandler = Callable[[Result], object]
ErrorHandler = Callable[[ExecutionError], object]


def result_of(result: CodeResult) -> Result:
    """A value with E2B's names."""
    forms = {name: result.data.get(media) for name, media in FORMS.items() if name != "json"}
    extra = {media: form for media, form in result.data.items() if media not in FORMS.values()}
    parsed = json.loads(result.json) if result.json is not None else None
    return Result(**forms, json=parsed, is_main_result=result.is_main_result, extra=extra)


def error_of(error: CodeError) -> ExecutionError:
    """What was raised, with E2B's names."""
    return ExecutionError(error.name, error.value, error.traceback)


def message(call: MessageHandler | None, logs: list[str], error: bool) -> Callable[[str], None]:
    """Keeps output as it comes, and tells of it."""

    def came(text: str) -> None:
        logs.append(text)
        if call is not None:
            call(OutputMessage(text, time.time_ns(), error))

    return came


def execution_of(gathered: Gathered, logs: Logs) -> Execution:
    """What code gave, with E2B's names."""
    error = error_of(gathered.error) if gathered.error is not None else None
    return Execution([result_of(result) for result in gathered.results], logs, error)


def without_envs(envs: Union[dict[str, str], None]) -> None:
    """Variables belong to the interpreter, not to one call."""
    if envs:
        raise NotSupportedException("set variables in the code: `os.environ[...] = ...`, or at `create`")
