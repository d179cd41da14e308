#!/usr/bin/env python3
"""What frameworks get from `teff serve`: sessions of LangChain, LlamaIndex, LiteLLM, instructor and Pydantic AI, by
whichever of its APIs each of them speaks. `scripts/clients/check.sh` installs the packages and runs it.
"""

import asyncio
import os

import instructor
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai import OpenAI as LangChainCompletion
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from openai import OpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from official import main

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # prices of hosted models, which it would ask the network for
import litellm  # noqa: E402

CHECKS = []
QUESTION = "What is the capital of France?"
ABOUT = "Tell me of Paris."
SHORT, LONG = 24, 80  # tokens of a sentence, of a small document
CHAT = [{"role": "user", "content": QUESTION}]


class City(BaseModel):
    name: str
    inhabitants: int


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


class Session:
    """A server, and what it says by itself to the question that the frameworks ask."""

    def __init__(self, url, _program, _model):
        self.url, self.api = url, url + "/v1"
        self.plain = OpenAI(base_url=self.api, api_key="any", max_retries=0, timeout=300)
        self.model = self.plain.models.list().data[0].id
        answer = self.plain.chat.completions.create(model=self.model, messages=CHAT, temperature=0, max_tokens=SHORT)
        self.answer = answer.choices[0].message.content
        self.common = {"model": self.model, "temperature": 0}

    def langchain(self, tokens=SHORT, **more):
        return ChatOpenAI(base_url=self.api, api_key="any", max_retries=0, timeout=300, max_tokens=tokens, **self.common, **more)

    def langchain_claude(self, tokens=SHORT):
        return ChatAnthropic(base_url=self.url, api_key="any", max_retries=0, max_tokens=tokens, **self.common)

    def langchain_ollama(self, tokens=SHORT):
        return ChatOllama(base_url=self.url, num_predict=tokens, **self.common)

    def llama_index(self, tokens=SHORT, **more):
        more = {"is_chat_model": True, "is_function_calling_model": True, **more}
        return OpenAILike(api_base=self.api, api_key="any", timeout=300, max_retries=0, max_tokens=tokens, **self.common, **more)

    def litellm(self, provider, base, **more):
        return litellm.completion(model=f"{provider}/{self.model}", api_base=base, api_key="any",
                                  **{"messages": CHAT, "max_tokens": SHORT, "temperature": 0, **more})

    def instructor(self, mode):
        return instructor.from_openai(self.plain, mode=mode)

    def pydantic(self, kind, tokens=SHORT, **more):
        model = kind(self.model, provider=OpenAIProvider(base_url=self.api, api_key="any"))
        return Agent(model, model_settings={"max_tokens": tokens, "temperature": 0}, **more)


def check(function):
    CHECKS.append(function)
    return function


def deltas(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@check
def langchain_asks_whole_streamed_and_in_batches(s):
    chat = s.langchain()
    answer = chat.invoke(QUESTION)
    assert answer.content == s.answer and answer.response_metadata["finish_reason"] in ("stop", "length")
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == s.answer
    assert [a.content for a in chat.batch([QUESTION, QUESTION])] == [s.answer] * 2
    scored = chat.bind(logprobs=True, top_logprobs=3).invoke(QUESTION)
    assert len(scored.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 3


@check
def langchain_calls_tools(s):
    chat = s.langchain(LONG)
    call = chat.bind_tools([get_weather], tool_choice="get_weather").invoke("Weather in Paris?")
    assert call.tool_calls[0]["name"] == "get_weather" and call.tool_calls[0]["args"]["city"]
    result = ToolMessage("sunny", tool_call_id=call.tool_calls[0]["id"])
    chat.bind_tools([get_weather]).invoke([HumanMessage("Weather in Paris?"), call, result])
    whole = None
    for chunk in chat.bind_tools([get_weather], tool_choice="any").stream("Weather in Paris?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["name"] == "get_weather"


@check
def langchain_reads_documents(s):
    for method in ("json_schema", "function_calling"):
        assert isinstance(s.langchain(LONG).with_structured_output(City, method=method).invoke(ABOUT), City)


@check
def langchain_uses_responses(s):
    chat = s.langchain(use_responses_api=True)
    assert chat.invoke(QUESTION).content[0]["text"] == s.answer
    assert "".join(block["text"] for chunk in chat.stream(QUESTION) for block in chunk.content if "text" in block) == s.answer
    call = s.langchain(LONG, use_responses_api=True).bind_tools([get_weather], tool_choice="get_weather").invoke("Weather?")
    assert call.tool_calls[0]["name"] == "get_weather"


@check
def langchain_completes_and_embeds(s):
    assert LangChainCompletion(base_url=s.api, api_key="any", max_tokens=8, **s.common).invoke("The capital of France is")
    # Without the cut into tokens of OpenAI's own, which is not this model's.
    embed = OpenAIEmbeddings(base_url=s.api, api_key="any", model=s.model, check_embedding_ctx_length=False)
    first, second = embed.embed_documents(["a cold night", "numbers"])
    assert len(first) == len(second) > 0 and first != second


@check
def langchain_speaks_as_to_anthropic(s):
    chat = s.langchain_claude()
    assert chat.invoke(QUESTION).content == s.answer
    assert "".join(c.content if isinstance(c.content, str) else "".join(p.get("text", "") for p in c.content)
                   for c in chat.stream(QUESTION)) == s.answer
    assert chat.get_num_tokens_from_messages([HumanMessage(QUESTION)]) > 0
    call = s.langchain_claude(LONG).bind_tools([get_weather], tool_choice="get_weather").invoke("Weather in Paris?")
    assert call.tool_calls[0]["name"] == "get_weather"
    assert isinstance(s.langchain_claude(LONG).with_structured_output(City).invoke(ABOUT), City)


@check
def langchain_speaks_as_to_ollama(s):
    chat = s.langchain_ollama()
    assert chat.invoke(QUESTION).content == s.answer
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == s.answer
    assert isinstance(s.langchain_ollama(LONG).with_structured_output(City).invoke(ABOUT), City)
    assert OllamaEmbeddings(base_url=s.url, model=s.model).embed_query("a cold night")


@check
def llama_index_asks_and_embeds(s):
    message = [ChatMessage(role="user", content=QUESTION)]
    assert s.llama_index().chat(message).message.content == s.answer
    assert list(s.llama_index().stream_chat(message))[-1].message.content == s.answer
    assert s.llama_index(is_chat_model=False).complete("The capital of France is").text
    assert OpenAILikeEmbedding(model_name=s.model, api_base=s.api, api_key="any").get_text_embedding("a cold night")


@check
def llama_index_reads_documents_and_calls_tools(s):
    document = s.llama_index(LONG, should_use_structured_outputs=True).as_structured_llm(City).complete(ABOUT)
    City.model_validate_json(document.text)
    weather = FunctionTool.from_defaults(lambda city: "sunny", name="weather", description="Weather of a city")
    answer = s.llama_index(LONG).chat_with_tools([weather], user_msg="Weather in Paris?", tool_required=True)
    assert answer.message.additional_kwargs["tool_calls"][0].function.name == "weather"


@check
def litellm_asks_by_every_provider(s):
    for provider, base in [("openai", s.api), ("hosted_vllm", s.api), ("llamafile", s.api), ("anthropic", s.url),
                           ("ollama_chat", s.url)]:
        assert s.litellm(provider, base).choices[0].message.content == s.answer, provider
        assert deltas(s.litellm(provider, base, stream=True)) == s.answer, provider
    assert s.litellm("ollama", s.url).choices[0].message.content


@check
def litellm_uses_the_other_routes(s):
    model = f"openai/{s.model}"
    answer = litellm.responses(model=model, api_base=s.api, api_key="any", input=QUESTION, max_output_tokens=SHORT, temperature=0)
    assert answer.output[0].content[0].text == s.answer
    assert litellm.embedding(model=model, api_base=s.api, api_key="any", input=["a"]).data[0]["embedding"]
    text = litellm.text_completion(model=f"text-completion-{model}", api_base=s.api, api_key="any", prompt="One, two,", max_tokens=4)
    assert text.choices[0].text
    about = [{"role": "user", "content": ABOUT}]
    document = s.litellm("openai", s.api, messages=about, response_format=City, max_tokens=LONG)
    City.model_validate_json(document.choices[0].message.content)
    try:
        litellm.completion(model="openai/other", api_base=s.api, api_key="any", messages=CHAT)
        raise AssertionError("was not refused")
    except litellm.NotFoundError as error:
        assert "other" in str(error)


@check
def instructor_reads_documents(s):
    # Modes that only ask for JSON are left out: this small model does not follow them.
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
        city = s.instructor(mode).create(response_model=City, messages=[{"role": "user", "content": ABOUT}], max_tokens=LONG,
                                         max_retries=1, **s.common)
        assert isinstance(city, City), mode
    parts = s.instructor(instructor.Mode.TOOLS).create_partial(response_model=City, max_tokens=LONG, **s.common,
                                                               messages=[{"role": "user", "content": ABOUT}])
    assert list(parts)[-1].name


@check
def pydantic_ai_asks_and_reads_documents(s):
    assert s.pydantic(OpenAIChatModel).run_sync(QUESTION).output == s.answer
    assert s.pydantic(OpenAIResponsesModel).run_sync(QUESTION).output == s.answer
    for output in (City, NativeOutput(City)):
        assert isinstance(s.pydantic(OpenAIChatModel, LONG, output_type=output, retries=0).run_sync(ABOUT).output, City)

    async def streamed():
        async with s.pydantic(OpenAIChatModel).run_stream(QUESTION) as result:
            return [text async for text in result.stream_text()][-1]

    assert asyncio.run(streamed()) == s.answer


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    main(CHECKS, Session)
