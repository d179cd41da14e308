#!/usr/bin/env python3
"""What the official clients get from `teff serve`: starts the server with a model and runs scripted
sessions of the `openai`, `anthropic` and `ollama` packages against it, some beside each other. `scripts/clients/check.sh`
installs the packages and runs it.
"""

import base64
import json
import re
import struct
import subprocess
import sys
import threading
import time

import anthropic
import httpx
import ollama
import openai
from anthropic import Anthropic
from openai import OpenAI

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def start(program, model, *args):
    command = [program, "serve", "-m", model, "--port", "0", "--no-log", *args]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"listening at (http://\S+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[1]
    raise SystemExit(f"{command} does not listen")


class Session:
    def __init__(self, url, program, model):
        self.url, self.run = url, [program, "run", "-m", model]
        self.client = OpenAI(base_url=url + "/v1", api_key="any", max_retries=0, timeout=300)
        self.model = self.client.models.list().data[0].id
        self.claude = Anthropic(base_url=url, api_key="any", max_retries=0, timeout=300)
        self.ollama = ollama.Client(host=url, timeout=300)

    def chat(self, messages=QUESTION, **rest):
        rest = {"temperature": 0, "max_tokens": 24, **rest}
        return self.client.chat.completions.create(model=self.model, messages=messages, **rest)

    def refused(self, kind, param=None, code=None, **rest):
        try:
            self.chat(**rest)
        except kind as error:
            body = error.response.json()["error"]
            assert set(body) == {"message", "type", "param", "code"}, body
            assert param is None or body["param"] == param, body
            assert code is None or body["code"] == code, body
            return body
        raise AssertionError(f"{rest} was not refused")


def pieces(stream):
    chunks = list(stream)
    assert len({(c.id, c.created) for c in chunks}) == 1
    first = next(c for c in chunks if c.choices)
    assert first.choices[0].delta.role == "assistant"
    return chunks


def text_of(chunks, index=0):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices and c.choices[0].index == index)


def calls_of(chunks):
    calls = {}
    for chunk in chunks:
        for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            if call.index not in calls:
                assert call.id and call.type == "function" and call.function.name
                calls[call.index] = [call.function.name, call.function.arguments or ""]
            else:
                assert not call.id and not call.function.name
                calls[call.index][1] += call.function.arguments
    return [calls[i] for i in sorted(calls)]


@check
def models_are_listed(s):
    model = s.client.models.list().data[0]
    assert model.object == "model" and model.owned_by and model.created and model.max_model_len > 0
    assert s.client.models.retrieve(s.model).id == s.model
    try:
        s.client.models.retrieve("no/such")
        raise AssertionError("found")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"


@check
def a_whole_answer_has_all_fields(s):
    answer = s.chat()
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    choice = answer.choices[0]
    command = [*s.run, "-p", QUESTION[0]["content"], "-n", "24", "--temp", "0"]
    alone = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert choice.message.role == "assistant" and choice.message.content.strip() == alone
    assert choice.finish_reason in ("stop", "length") and choice.index == 0
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


@check
def a_stream_is_the_same_text(s):
    whole = s.chat().choices[0].message.content
    chunks = pieces(s.chat(stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == whole
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(c.usage is None for c in chunks[:-1])
    assert sum(1 for c in chunks if c.choices and c.choices[0].finish_reason) == 1


@check
def no_usage_unless_wished(s):
    assert all(c.usage is None for c in pieces(s.chat(stream=True)))


@check
def max_tokens_ends_with_length(s):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = s.chat(**{"max_tokens": openai.omit, name: 3})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


@check
def stop_strings_end_and_are_not_told(s):
    whole = s.chat().choices[0].message.content
    word = whole.split()[3]
    answer = s.chat(stop=[word])
    assert answer.choices[0].message.content == whole[: whole.index(word)]
    assert answer.choices[0].finish_reason == "stop"
    assert text_of(pieces(s.chat(stop=word, stream=True))) == whole[: whole.index(word)]


@check
def n_answers_are_distinct_and_share_the_prompt(s):
    answer = s.chat(n=3, temperature=1.5, seed=7)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) > 1
    again = s.chat(n=3, temperature=1.5, seed=7)
    assert [c.message.content for c in again.choices] == [c.message.content for c in answer.choices]
    chunks = pieces(s.chat(n=2, stream=True))
    assert text_of(chunks, 0) == text_of(chunks, 1) != ""
    alone = s.chat(temperature=1.5, seed=8)
    assert alone.choices[0].message.content == answer.choices[1].message.content


@check
def logprobs_are_told(s):
    answer = s.chat(logprobs=True, top_logprobs=3, max_tokens=5)
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3 and token.bytes
        assert token.top_logprobs[0].token == token.token
    chunks = pieces(s.chat(logprobs=True, top_logprobs=1, max_tokens=5, stream=True))
    told = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [t.logprob for t in told] == [t.logprob for t in content]


@check
def seeds_repeat(s):
    texts = {s.chat(temperature=2, seed=5).choices[0].message.content for _ in range(3)}
    assert len(texts) == 1
    others = {s.chat(temperature=2).choices[0].message.content for _ in range(3)}
    assert len(others) > 1


@check
def logit_bias_forbids(s):
    word = s.chat(max_tokens=1, logprobs=True).choices[0]
    tokens = httpx.post(s.url + "/tokenize", json={"content": word.message.content}).json()["tokens"]
    other = s.chat(max_tokens=1, logit_bias={str(tokens[0]): -100})
    assert other.choices[0].message.content != word.message.content


@check
def samplers_are_known(s):
    extra = {"top_k": 1, "min_p": 0.1, "repeat_penalty": 1.1, "dry_multiplier": 0.5, "xtc_probability": 0.1,
             "typical_p": 0.9, "samplers": ["penalties", "dry", "top_k", "typ_p", "min_p", "xtc", "temperature"]}
    s.chat(temperature=0.7, extra_body=extra)
    s.chat(temperature=0.7, extra_body={"mirostat": 2, "mirostat_tau": 4})
    s.refused(openai.BadRequestError, param="min_p", extra_body={"min_p": 7})
    s.refused(openai.BadRequestError, param="top_k", extra_body={"top_k": "many"})


@check
def hosted_fields_are_passed_over(s):
    s.chat(user="me", store=False, metadata={"a": "b"}, service_tier="auto", extra_body={"verbosity": "low", "xyz": 1})


@check
def wrong_requests_are_refused(s):
    bad = openai.BadRequestError
    s.refused(bad, param="temperature", temperature=-1)
    s.refused(bad, param="n", n=17)
    s.refused(bad, param="messages", messages=[])
    s.refused(bad, param="messages[0].role", messages=[{"role": "robot", "content": "x"}])
    s.refused(bad, param="max_tokens", max_tokens=-5)
    s.refused(bad, param="top_logprobs", logprobs=True, top_logprobs=21)
    s.refused(bad, param="stream", extra_body={"stream": "yes"})
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    s.refused(bad, param="messages[0].content[0]", messages=image)
    long = [{"role": "user", "content": "word " * 9000}]
    body = s.refused(bad, code="context_length_exceeded", messages=long)
    assert len(re.findall(r"\d+", body["message"])) == 2
    try:
        s.client.chat.completions.create(model="other", messages=QUESTION)
        raise AssertionError("answered")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found" and error.param == "model"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": "}}
    history = QUESTION + [{"role": "assistant", "tool_calls": [call]}]
    s.refused(bad, param="messages[1].tool_calls[0].function.arguments", messages=history)


@check
def raw_http_is_told_in_json(s):
    for method, path, status in [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405),
                                 ("DELETE", "/v1/models", 405)]:
        answer = httpx.request(method, s.url + path)
        assert answer.status_code == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
    path = s.url + "/v1/chat/completions"
    assert httpx.post(path, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert httpx.post(path, content=b"x", headers={"content-type": "image/png"}).status_code == 415
    assert httpx.post(path, content=b"x" * (9 << 20), headers={"content-type": "application/json"}).status_code == 413
    assert httpx.get(s.url + "/health", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
    assert httpx.get(s.url + "/health", headers={"host": "evil.example"}).status_code == 403


@check
def a_named_tool_is_called(s):
    for tools, choice in [([WEATHER, CLOCK], {"type": "function", "function": {"name": "get_weather"}}),
                          ([WEATHER], "required")]:
        rest = dict(tools=tools, tool_choice=choice, max_tokens=80)
        answer = s.chat([{"role": "user", "content": "Weather in Oslo, Celsius?"}], **rest)
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        call = choice.message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "get_weather" and call.id and arguments["unit"] in "CF"
        chunks = pieces(s.chat([{"role": "user", "content": "Weather in Oslo, Celsius?"}], stream=True, **rest))
        assert calls_of(chunks) == [[c.function.name, c.function.arguments] for c in choice.message.tool_calls]
        assert [c for c in chunks if c.choices][-1].choices[0].finish_reason == "tool_calls"


@check
def auto_and_none_answer(s):
    auto = s.chat(tools=[WEATHER], tool_choice="auto", max_tokens=60)
    for call in auto.choices[0].message.tool_calls or []:
        json.loads(call.function.arguments)
    none = s.chat(tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.tool_calls is None and none.choices[0].message.content
    s.refused(openai.BadRequestError, param="tool_choice", tools=[WEATHER],
              tool_choice={"type": "function", "function": {"name": "other"}})
    s.refused(openai.BadRequestError, param="tools[0].function.name",
              tools=[{"type": "function", "function": {"name": "a b"}}])


@check
def a_round_with_a_tool_goes_on(s):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    history = QUESTION + [{"role": "assistant", "content": None, "tool_calls": [call]},
                          {"role": "tool", "tool_call_id": "c1", "content": "7 C"}]
    assert s.chat(history, tools=[WEATHER], tool_choice="none").choices[0].message.content


@check
def schemas_are_followed(s):
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
              "required": ["name", "age"], "additionalProperties": False}
    for strict in (True, False):
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": strict}}
        answer = s.chat([{"role": "user", "content": "Describe Anna, 30 years."}], response_format=form, max_tokens=80)
        made = json.loads(answer.choices[0].message.content)
        assert isinstance(made["name"], str) and isinstance(made["age"], int) and len(made) == 2
    made = s.chat([{"role": "user", "content": "An object with a."}], response_format={"type": "json_object"},
                  max_tokens=60)
    assert made.choices[0].message.content.startswith("{")
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "not": {}}}}
    s.refused(openai.BadRequestError, param="response_format.json_schema.schema", response_format=bad)
    answer = s.chat(extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert answer.choices[0].message.content in ("yes", "no")
    answer = s.chat(extra_body={"structured_outputs": {"choice": ["red", "blue"]}})
    assert answer.choices[0].message.content in ("red", "blue")


@check
def parsed_helpers_of_the_client_work(s):
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=150)

    asked = dict(model=s.model, messages=[{"role": "user", "content": "Bob is 7."}], response_format=Person,
                 temperature=0, max_tokens=100)
    answer = s.client.chat.completions.parse(**asked)
    assert isinstance(answer.choices[0].message.parsed, Person)
    # The client's helper fails by itself where an answer ends for its length.
    with s.client.chat.completions.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content == text


@check
def prefixes_are_found_again(s):
    messages = [{"role": "system", "content": "You are brief. " * 60}] + QUESTION
    s.chat(messages)
    assert s.chat(messages).usage.prompt_tokens_details.cached_tokens > 200


@check
def completions_continue_texts(s):
    create = lambda **rest: s.client.completions.create(**{"model": s.model, "temperature": 0, "max_tokens": 8, **rest})
    one = create(prompt="Once upon a time")
    assert one.object == "text_completion" and one.choices[0].text and one.usage.completion_tokens == 8
    ids = httpx.post(s.url + "/tokenize", json={"content": "Once upon a time", "add_special": True}).json()["tokens"]
    assert create(prompt=ids).choices[0].text == one.choices[0].text
    many = create(prompt=["Once upon a time", "Two and two"], n=2)
    assert [c.index for c in many.choices] == [0, 1, 2, 3] and many.choices[1].text == one.choices[0].text
    echo = create(prompt="Once upon a time", echo=True)
    assert echo.choices[0].text == "Once upon a time" + one.choices[0].text
    probable = create(prompt="Once upon a time", logprobs=2).choices[0].logprobs
    assert len(probable.tokens) == len(probable.token_logprobs) == len(probable.top_logprobs) == 8
    stream = list(create(prompt="Once upon a time", stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in stream if c.choices) == one.choices[0].text and stream[-1].usage
    try:
        create(prompt="a", suffix="b")
        raise AssertionError("infilled")
    except openai.BadRequestError as error:
        assert error.param == "suffix"


@check
def embeddings_have_unit_length(s):
    create = lambda **rest: s.client.embeddings.create(model=s.model, **rest)
    both = create(input=["a cold night", "a cold night", "numbers"])
    a, b, c = [one.embedding for one in both.data]
    assert a == b != c and abs(sum(x * x for x in a) - 1) < 1e-3 and both.usage.prompt_tokens > 3
    raw = create(input="a cold night", encoding_format="base64").data[0].embedding
    assert list(struct.unpack(f"<{len(a)}f", base64.b64decode(raw))) == a
    try:
        create(input="x", dimensions=7)
        raise AssertionError("cut")
    except openai.BadRequestError as error:
        assert error.param == "dimensions"


@check
def native_extras_answer(s):
    post = lambda path, **body: httpx.post(s.url + path, json=body).json()
    tokens = post("/tokenize", content="Hello there")["tokens"]
    assert post("/detokenize", tokens=tokens)["content"] == "Hello there"
    assert "capital of France" in post("/apply-template", messages=QUESTION)["prompt"]
    assert httpx.get(s.url + "/props").json()["chat_template"]
    text = httpx.get(s.url + "/metrics").text
    for name in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                 "vllm:cache_config_info", "vllm:prompt_tokens_total", "vllm:time_to_first_token_seconds_bucket"]:
        assert re.search(rf'^{name}{{[^}}]*model_name="', text, re.M), name


@check
def eight_at_a_time_say_what_one_says_alone(s):
    questions = [[{"role": "user", "content": f"Tell me about the number {i}."}] for i in range(8)]
    alone = [s.chat(q, max_tokens=40).choices[0].message.content for q in questions]
    together = [None] * 8

    def ask(i):
        together[i] = text_of(list(s.chat(questions[i], max_tokens=40, stream=True)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert together == alone


@check
def a_client_that_leaves_is_noticed(s):
    def running():
        text = httpx.get(s.url + "/metrics").text
        return sum(float(x) for x in re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)", text, re.M))

    for stream in (True, False):
        body = {"model": s.model, "messages": QUESTION, "max_tokens": 3000, "stream": stream, "ignore_eos": True}
        try:
            with httpx.stream("POST", s.url + "/v1/chat/completions", json=body, timeout=1) as answer:
                for _ in answer.iter_lines():
                    break
        except httpx.TimeoutException:
            pass
        end = time.time() + 3
        while running() > 0 and time.time() < end:
            time.sleep(0.05)
        assert running() == 0, stream

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
          "required": ["name", "age"], "additionalProperties": False}
SHOPPING = [{"role": "user", "content": "Weather in Oslo, Celsius?"}]
TOOL = {"name": "get_weather", "description": "Weather of a city",
        "input_schema": WEATHER["function"]["parameters"]}
FUNCTION = {"type": "function", "strict": False, **WEATHER["function"]}


def message(s, messages=QUESTION, **rest):
    extra = {"temperature": 0, **rest.pop("extra_body", {})}
    return s.claude.messages.create(**{"model": s.model, "messages": messages, "max_tokens": 24, "extra_body": extra, **rest})


def claude_refuses(s, kind, name, **rest):
    try:
        message(s, **rest)
    except kind as error:
        body = error.response.json()
        assert body["type"] == "error" and body["error"]["type"] == name and body["request_id"], body
        return body["error"]["message"]
    raise AssertionError(f"{rest} was not refused")


@check
def claude_is_answered(s):
    answer = message(s)
    assert answer.type == "message" and answer.role == "assistant" and answer.id and answer._request_id
    assert answer.content[0].text == s.chat().choices[0].message.content
    usage = answer.usage
    count = s.claude.messages.count_tokens(model=s.model, messages=QUESTION).input_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens == count
    short = message(s, max_tokens=3)
    assert short.stop_reason == "max_tokens" and short.usage.output_tokens == 3
    word = answer.content[0].text.split()[3]
    cut = message(s, stop_sequences=[word])
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == word and word not in cut.content[0].text
    begun = message(s, [*QUESTION, {"role": "assistant", "content": "The capital of France is"}])
    assert begun.content[0].text.strip().startswith("Paris"), begun.content


@check
def claude_streams(s):
    with s.claude.messages.stream(model=s.model, messages=QUESTION, max_tokens=24,
                                  extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = message(s)
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens
    kinds = [event.type for event in message(s, stream=True)]
    kinds = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    assert kinds == ["message_start", "content_block_start", "content_block_delta", "content_block_stop",
                     "message_delta", "message_stop"], kinds


@check
def claude_calls_tools(s):
    for choice in [{"type": "any"}, {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}]:
        rest = dict(tools=[TOOL], tool_choice=choice, max_tokens=80)
        answer = message(s, SHOPPING, **rest)
        assert answer.stop_reason == "tool_use", answer
        call = answer.content[0]
        assert call.type == "tool_use" and call.name == "get_weather" and call.input["unit"] in "CF"
        with s.claude.messages.stream(model=s.model, messages=SHOPPING, extra_body={"temperature": 0}, **rest) as stream:
            final = stream.get_final_message()
        assert [b.input for b in final.content] == [b.input for b in answer.content]
        history = [*SHOPPING, {"role": "assistant", "content": answer.content},
                   {"role": "user", "content": [
                       {"type": "tool_result", "tool_use_id": b.id, "content": [{"type": "text", "text": "7 C"}]}
                       for b in answer.content]}]
        assert message(s, history, tools=[TOOL], tool_choice={"type": "none"}).content[0].type == "text"
    auto = message(s, SHOPPING, tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}])
    assert auto.content
    raw = s.claude.messages.with_raw_response.create(
        model=s.model, messages=QUESTION, max_tokens=4,
        tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert raw.headers["x-teff-ignored-tools"] == "web_search_20250305"


@check
def claude_follows_schemas(s):
    answer = message(s, [{"role": "user", "content": "Describe Anna, 30 years."}], max_tokens=80,
                     output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    made = json.loads(answer.content[0].text)
    assert isinstance(made["name"], str) and isinstance(made["age"], int) and len(made) == 2


@check
def claude_code_finds_its_prefix_again(s):
    text = "You are brief. " * 60
    for n in (1, 222, 33333):
        system = [{"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={n};"},
                  {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
        answer = s.claude.beta.messages.create(
            model=s.model, messages=QUESTION, max_tokens=4, system=system, betas=["interleaved-thinking-2025-05-14"],
            thinking={"type": "disabled"}, metadata={"user_id": "x"})
        assert n == 1 or answer.usage.cache_read_input_tokens > 200, answer.usage
    bearer = Anthropic(base_url=s.url, auth_token="any", api_key=None, max_retries=0)
    assert bearer.messages.create(model=s.model, messages=QUESTION, max_tokens=2).content


@check
def claude_is_told_errors_in_its_shape(s):
    bad, name = anthropic.BadRequestError, "invalid_request_error"
    claude_refuses(s, bad, name, max_tokens=-1)
    claude_refuses(s, bad, name, messages=[])
    image = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}]
    assert "image" in claude_refuses(s, bad, name, messages=[{"role": "user", "content": image}])
    claude_refuses(s, bad, name, tools=[TOOL], tool_choice={"type": "tool", "name": "other"})
    claude_refuses(s, bad, name, messages=[{"role": "user", "content": "word " * 9000}])
    claude_refuses(s, anthropic.NotFoundError, "not_found_error", model="other")


def response(s, given=QUESTION, **rest):
    return s.client.responses.create(**{"model": s.model, "input": given, "temperature": 0, "max_output_tokens": 24, **rest})


@check
def responses_answer(s):
    answer = response(s)
    assert answer.output_text == s.chat().choices[0].message.content
    assert response(s, QUESTION[0]["content"]).output_text == answer.output_text
    short = response(s, max_output_tokens=3)
    assert short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens"
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens >= 0 and usage.output_tokens_details.reasoning_tokens == 0
    told = response(s, max_output_tokens=4, include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = told.output[0].content[0].logprobs
    assert len(logprobs) == 4 and all(len(one.top_logprobs) == 2 for one in logprobs)
    many = [{"role": "developer", "content": "b"}, {"role": "developer", "content": "c"}, *QUESTION]
    assert response(s, many, instructions="Be brief.").output_text


@check
def responses_stream(s):
    # Only completed responses have a final one, so a grammar ends the answer and not its length.
    grammar = {"grammar": 'root ::= "Paris" [a-z ]{4,8} "."'}
    with s.client.responses.stream(model=s.model, input=QUESTION, temperature=0, extra_body=grammar) as stream:
        events = list(stream)
        final = stream.get_final_response()
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text != ""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    kinds = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    assert kinds == ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
                     "output_text.done", "content_part.done", "output_item.done", "completed"], kinds


@check
def responses_call_functions(s):
    for choice in ["required", {"type": "function", "name": "get_weather"}]:
        rest = dict(tools=[FUNCTION, {"type": "web_search"}], tool_choice=choice, max_output_tokens=80)
        answer = response(s, SHOPPING, **rest)
        call = answer.output[0]
        assert call.type == "function_call" and call.name == "get_weather" and json.loads(call.arguments)["unit"] in "CF"
        rest.pop("max_output_tokens")
        with s.client.responses.stream(model=s.model, input=SHOPPING, temperature=0, **rest) as stream:
            final = stream.get_final_response()
        assert [c.arguments for c in final.output] == [c.arguments for c in answer.output]
        for output in ["7 C", [{"type": "input_text", "text": "7 C"}]]:
            history = [*SHOPPING, *answer.output]
            history += [{"type": "function_call_output", "call_id": c.call_id, "output": output} for c in answer.output]
            assert response(s, history, tools=[FUNCTION], tool_choice="none").output_text
    raw = s.client.responses.with_raw_response.create(
        model=s.model, input="x", max_output_tokens=2,
        tools=[{"type": "web_search"}, {"type": "custom", "name": "x"}, FUNCTION])
    assert raw.headers["x-teff-ignored-tools"] == "web_search, custom"


@check
def responses_follow_schemas(s):
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        name: str = Field(max_length=20)
        age: int

    question = [{"role": "user", "content": "Describe Anna, 30 years."}]
    answer = s.client.responses.parse(model=s.model, input=question, text_format=Person, temperature=0)
    assert isinstance(answer.output_parsed, Person)
    made = response(s, question, text={"format": {"type": "json_object"}})
    assert made.output_text.startswith("{")


@check
def responses_keep_no_state(s):
    for rest in [{"previous_response_id": "x"}, {"conversation": "x"}, {"background": True}]:
        try:
            response(s, **rest)
            raise AssertionError(f"{rest} was not refused")
        except openai.BadRequestError as error:
            assert error.param == list(rest)[0]
    assert response(s, store=True, extra_body={"prompt_cache_key": "x"}).output_text


def ollama_chat(s, messages=QUESTION, **rest):
    options = {"temperature": 0, "num_predict": 24, **rest.pop("options", {})}
    return s.ollama.chat(model=s.model, messages=messages, options=options, **rest)


@check
def ollama_answers_and_streams(s):
    whole = ollama_chat(s)
    assert whole.done and whole.message.content == s.chat().choices[0].message.content
    lines = list(ollama_chat(s, stream=True))
    assert "".join(line.message.content for line in lines) == whole.message.content
    last = lines[-1]
    assert last.done and last.done_reason in ("stop", "length") and last.eval_count == whole.eval_count
    assert last.total_duration > 0 and last.prompt_eval_count > 0 and last.prompt_eval_duration >= 0
    assert not any(line.done for line in lines[:-1])
    made = s.ollama.generate(model=s.model, prompt=QUESTION[0]["content"], options={"temperature": 0, "num_predict": 24})
    assert made.response == whole.message.content
    parts = s.ollama.generate(model=s.model, prompt=QUESTION[0]["content"], stream=True,
                              options={"temperature": 0, "num_predict": 24})
    assert "".join(part.response for part in parts) == made.response
    assert s.ollama.generate(model=s.model).done_reason == "load"


@check
def ollama_calls_and_follows_schemas(s):
    made = ollama_chat(s, [{"role": "user", "content": "Describe Anna, 30 years."}], format=SCHEMA,
                       options={"num_predict": 80})
    made = json.loads(made.message.content)
    assert isinstance(made["name"], str) and isinstance(made["age"], int)
    assert ollama_chat(s, format="json").message.content.startswith("{")
    answer = ollama_chat(s, SHOPPING, tools=[WEATHER])
    assert answer.message.content is not None or answer.message.tool_calls
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    history = [*SHOPPING, {"role": "assistant", "content": "", "tool_calls": [call]},
               {"role": "tool", "tool_name": "get_weather", "content": "7 C"}]
    assert ollama_chat(s, history).message.content


@check
def ollama_tells_of_models(s):
    models = s.ollama.list().models
    assert models[0].model == s.model and models[0].size > 0 and models[0].modified_at
    assert s.ollama.ps().models[0].model == s.model
    shown = s.ollama.show(s.model)
    family = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{family}.context_length"] > 0 and "tools" in shown.capabilities
    assert shown.details.format == "gguf" and shown.template
    assert httpx.head(s.url + "/api/version").status_code == 200
    vectors = s.ollama.embed(model=s.model, input=["a cold night", "numbers"]).embeddings
    assert len(vectors) == 2 and abs(sum(x * x for x in vectors[0]) - 1) < 1e-3
    assert s.ollama.embeddings(model=s.model, prompt="a cold night").embedding == vectors[0]


@check
def ollama_is_told_errors(s):
    for status, ask in [(404, lambda: s.ollama.chat(model="other", messages=QUESTION)),
                        (400, lambda: ollama_chat(s, options={"num_ctx": 1 << 30})),
                        (400, lambda: ollama_chat(s, options={"temperature": -1})),
                        (400, lambda: ollama_chat(s, [{"role": "user", "content": "word " * 9000}])),
                        (501, lambda: s.ollama.pull("other"))]:
        try:
            ask()
            raise AssertionError("was not refused")
        except ollama.ResponseError as error:
            assert error.status_code == status and error.error, error


def main(checks=CHECKS, open_session=Session):
    program, model, *only = sys.argv[1:]
    process, url = start(program, model)
    failed = n = 0
    try:
        session = open_session(url, program, model)
        for function in checks:
            if only and not any(word in function.__name__ for word in only):
                continue
            began, n = time.time(), n + 1
            try:
                function(session)
                print(f"ok    {function.__name__} {time.time() - began:.1f} s", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAIL  {function.__name__}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    finally:
        process.terminate()
        code = process.wait(30)
    print(f"{n - failed} of {n} pass, exit code {code}")
    sys.exit(bool(failed or code))


if __name__ == "__main__":
    main()
