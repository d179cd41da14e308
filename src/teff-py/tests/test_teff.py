"""The package on the tiny model of tests/golden: python -m unittest, with the model in TEFF_MODEL."""

import json
import os
import signal
import threading
import unittest

import teff

PATH = os.environ["TEFF_MODEL"]
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"
LONG = {"max_tokens": 3000, "temperature": 0, "ignore_eos": True}


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = teff.Model(PATH, ctx=4096, threads=1, chat_template=TEMPLATE)

    def test_a_text_comes_piece_by_piece_and_whole(self):
        answer = self.model.complete("Once upon a time", max_tokens=24, temperature=0)
        events = list(answer)
        text = "".join(event.text for event in events if event.kind == "text")
        whole = answer.whole()
        self.assertEqual(whole["choices"][0]["text"], text)
        self.assertEqual(list(answer), [], "it has ended")
        again = self.model.complete("Once upon a time", max_tokens=24, temperature=0).whole()
        self.assertEqual(again["choices"], whole["choices"])

    def test_a_long_prompt_is_told_part_by_part(self):
        answer = self.model.complete("a " * 700, max_tokens=1, temperature=0)
        first = next(answer)
        self.assertEqual(first.kind, "prompt")
        self.assertTrue(0 < first.done < first.total)
        self.assertEqual(first.total, answer.whole()["usage"]["prompt_tokens"])

    def test_threads_share_a_model(self):
        def ask(i, texts):
            request = {"max_tokens": 16, "seed": i}
            texts[i] = self.model.complete(f"{i} is", **request).whole()["choices"][0]["text"]

        alone, together = {}, {}
        for i in range(3):
            ask(i, alone)
        threads = [threading.Thread(target=ask, args=(i, together)) for i in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        self.assertEqual(alone, together)

    def test_tools_are_called_and_schemas_followed(self):
        schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
        schema["additionalProperties"] = False
        tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        messages = [{"role": "user", "content": "hi"}]
        once = {"parallel_tool_calls": False, "max_tokens": 256}
        answer = self.model.chat(messages, tools=tools, tool_choice="required", **once)
        kinds = [event.kind for event in answer]
        call = answer.whole()["choices"][0]["message"]["tool_calls"][0]["function"]
        self.assertEqual(call["name"], "f")
        self.assertIn(json.loads(call["arguments"])["a"], ["x", "y"])
        self.assertTrue({"call", "arguments", "call_end"} <= set(kinds), kinds)
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        answer = self.model.chat(messages, response_format=form, max_tokens=256)
        self.assertIn(json.loads(answer.whole()["choices"][0]["message"]["content"])["a"], ["x", "y"])

    def test_texts_become_vectors(self):
        a, b, c = self.model.embed(["a night", "a night", "winter"])
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)
        self.assertAlmostEqual(sum(x * x for x in a), 1, places=4)
        self.assertEqual(self.model.embed([]), [])
        with self.assertRaises(teff.RequestError) as caught:
            self.model.embed(["a"] * 5000)
        self.assertEqual(caught.exception.field, "texts")

    def test_other_threads_run_while_the_engine_computes(self):
        answer, begun, errors = self.model.complete("a", **LONG), threading.Event(), []

        def read():
            begun.set()
            try:
                answer.whole()
            except teff.ModelError as error:
                errors.append(str(error))

        thread = threading.Thread(target=read)
        thread.start()
        begun.wait()
        answer.cancel()  # with the interpreter's lock held by the reader this would come behind the end
        thread.join()
        self.assertEqual(errors, ["the answer was cancelled"])

    def test_an_answer_is_cancelled(self):
        answer = self.model.complete("a", **LONG)
        for event in answer:
            if event.kind == "text":
                answer.cancel()
                break
        self.assertLess(len(list(answer)), 2900)
        with self.assertRaises(teff.ModelError):
            answer.whole()

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_a_fork_says_that_it_has_no_threads(self):
        answer = self.model.complete("a", **LONG)
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # what waits for a thread that is not there waits for ever
            told = 0
            for ask in [
                lambda: self.model.complete("a"),
                lambda: self.model.embed(["a"]),
                lambda: next(answer),
                answer.whole,
            ]:
                try:
                    ask()
                except teff.ModelError as error:
                    told += "forked" in str(error)
            answer.cancel()
            del answer
            os._exit(0 if told == 4 else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        answer.cancel()
        self.assertTrue(self.model.complete("a").whole()["choices"], "the parent goes on")

    def test_ctrl_c_ends_an_answer(self):
        # In the background a shell has programs pass over the signal.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with self.assertRaises(KeyboardInterrupt):
            for _ in range(1000):
                self.model.complete("a", **LONG).whole()
        timer.join()
        self.assertTrue(self.model.complete("a").whole()["choices"])


class Refusals(unittest.TestCase):
    def test_wrong_requests_name_the_field(self):
        model = teff.Model(PATH, ctx=128, threads=1)
        for field, ask in [
            ("top_p", lambda: model.complete("a", top_p=7)),
            ("n", lambda: model.complete("a", n=2)),
            ("prompt", lambda: model.complete(["a", "b"])),
            ("messages", lambda: model.chat([])),
            ("messages[0].role", lambda: model.chat([{"role": "robot", "content": "x"}])),
            ("thread", lambda: teff.Model(PATH, thread=1)),
        ]:
            with self.assertRaises(teff.RequestError) as caught:
                ask()
            self.assertEqual(caught.exception.field, field)
            self.assertIn(field, str(caught.exception))
        with self.assertRaises(TypeError):
            model.complete("a", stop=object())

    def test_without_a_template_the_ways_to_one_are_named(self):
        model = teff.Model(PATH, ctx=128, threads=1)
        with self.assertRaisesRegex(teff.RequestError, "chat_template.*one of chatml, "):
            model.chat([{"role": "user", "content": "hi"}])

    def test_what_is_no_model_is_an_error(self):
        with self.assertRaisesRegex(teff.ModelError, "no_such_file"):
            teff.Model("no_such_file")
        with self.assertRaises(teff.ModelError):
            teff.Model(__file__)


if __name__ == "__main__":
    unittest.main()
