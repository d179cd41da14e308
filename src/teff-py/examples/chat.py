"""Has a model call a tool, reads the result back to it, and has it answer in a form: chat.py MODEL"""

import json
import sys

import teff

WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
        "required": ["city"],
    },
}
FORM = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}

model = teff.Model(sys.argv[1], ctx=2048)
tools = [{"type": "function", "function": WEATHER}]
messages = [{"role": "user", "content": "What is the weather in Paris?"}]

once = {"tool_choice": "required", "parallel_tool_calls": False}
answer = model.chat(messages, tools=tools, max_tokens=64, temperature=0, **once)
for event in answer:
    if event.kind == "call":
        print("calls", event.text, end=" with ")
    elif event.kind == "arguments":
        print(event.text, end="", flush=True)
print()
message = answer.whole()["choices"][0]["message"]
call = message["tool_calls"][0]
city = json.loads(call["function"]["arguments"])["city"]
messages.append(message)
messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"{city}: 21 degrees, sunny"})

form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": FORM}}
answer = model.chat(messages, response_format=form, max_tokens=64, temperature=0)
print(json.loads(answer.whole()["choices"][0]["message"]["content"]))
