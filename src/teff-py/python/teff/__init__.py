"""GGUF language models on CPUs, in the process that asks them."""

from ._teff import Answer, Event, Model, ModelError, RequestError, __version__

__all__ = ["Answer", "Event", "Model", "ModelError", "RequestError", "__version__"]
