"""Types of the part that is written in Rust."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

__version__: str

class RequestError(ValueError):
    """A request or an option is wrong; the message names the field."""

    field: str | None
    """The field at fault, as `messages[0].role`, if it is one."""

class ModelError(RuntimeError):
    """A model cannot be loaded, or an answer failed."""

@final
class Event:
    """News of an answer."""

    kind: Literal["prompt", "text", "reasoning", "call", "arguments", "call_end"]
    text: str
    """More of the text, the reasoning or a call's arguments (JSON); the name of the tool where a call begins."""
    index: int
    """Number of the call, from 0."""
    id: str
    """Id of the call, where one begins."""
    done: int
    """Tokens of the prompt that are computed, where `kind` is `prompt`."""
    total: int
    """Tokens of the prompt."""

@final
class Answer:
    """Events of an answer while it comes. Dropping it ends the answer."""

    def __iter__(self) -> Answer: ...
    def __next__(self) -> Event: ...
    def whole(self) -> dict[str, Any]:
        """The whole answer, as OpenAI's API has it, behind its end."""
    def cancel(self) -> None:
        """Ends the answer, from any thread."""

@final
class Model:
    """A model with its engine. It may be used from many threads at a time."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        ctx: int | None = None,
        kv_type: Literal["f32", "f16", "q8_0", "q4_0"] | None = None,
        kv_bytes: int | None = None,
        parallel: int | None = None,
        repack: bool | None = None,
        speculate: Literal["auto", "off", "ngram"] | None = None,
        draft: str | None = None,
        chat_template: str | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> None: ...
    @property
    def ctx(self) -> int:
        """Tokens of a context."""
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        **request: Any,
    ) -> Answer:
        """Answers a conversation; the other fields are those of OpenAI's chat completions."""
    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        **request: Any,
    ) -> Answer:
        """Continues a text, by 16 tokens where nobody says; the other fields are those of OpenAI's completions."""
    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector of length 1 for each text."""
