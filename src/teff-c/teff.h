/* teff for C: GGUF language models on CPUs.
 *
 * A model is opened once and answers from then on. What is asked of it is JSON, in the words of OpenAI's API,
 * because requests have dozens of fields and C has no names for arguments; what is answered comes piece by
 * piece through a callback, and whole at the end. `teff_chat` takes the body of POST /v1/chat/completions
 * (messages, tools, tool_choice, response_format, max_tokens, temperature, seed, ..), `teff_complete` that
 * of POST /v1/completions (prompt, max_tokens, ..; 16 tokens where it does not say). `n`, if it is there,
 * must be 1; `stream` has no meaning.
 *
 * Text. All text is UTF-8 and ends in a zero byte. Text that comes in is copied.
 *
 * Errors. A function that can fail returns a status. Where it is not TEFF_OK, `teff_last_error` says why, for
 * the thread that called, and nothing has been written through the pointers for results. A null pointer or
 * text that is not UTF-8 is TEFF_ERROR_ARGUMENT. No function ends the process, but for a lack of memory that
 * Rust cannot report, and no panic leaves the library.
 *
 * Threads. A `teff_model` may be used from any number of threads at a time; requests that run together share
 * the steps of one engine, and give the bits that they would give alone. A `teff_cancel` may be used from any
 * thread, also while a request has it. Either must not be freed while a call that was given it has not
 * returned. Callbacks are called on the thread that made the request, between its start and its return; they
 * may call the library, but for freeing the model, and must not leave by longjmp or an exception.
 *
 * Linking: cargo build --release --package teff-c, then
 * cc main.c -I src/teff-c -L target/release -lteff_c -Wl,-rpath,target/release
 */

#ifndef TEFF_H
#define TEFF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A model with its engine: the file, its vocabulary, worker threads, the cache of keys and values. */
typedef struct teff_model teff_model;

/* A switch that ends one request. */
typedef struct teff_cancel teff_cancel;

/* How a call ended. Values stay what they are in later versions; there may be more. */
typedef int32_t teff_status;
enum {
    TEFF_OK = 0,
    TEFF_ERROR_ARGUMENT = 1, /* a null pointer, or text that is not UTF-8 */
    TEFF_ERROR_REQUEST = 2,  /* JSON that is none, or a field that is wrong: the error names it */
    TEFF_ERROR_FAILED = 3,   /* the model cannot be loaded, or the answer failed */
    TEFF_CANCELLED = 4,      /* by the callback or a teff_cancel */
    TEFF_ERROR_PANIC = 5     /* a fault of the library */
};

/* What an event tells. Pass over those that you do not know. */
typedef int32_t teff_event_kind;
enum {
    TEFF_EVENT_PROMPT = 0,    /* `done` of a long prompt's `total` tokens are computed */
    TEFF_EVENT_TEXT = 1,      /* more text of the answer */
    TEFF_EVENT_REASONING = 2, /* more of what the model thinks before its answer */
    TEFF_EVENT_CALL = 3,      /* call `index` begins; `text` is the tool's name, `id` the call's id */
    TEFF_EVENT_ARGUMENTS = 4, /* more of the arguments of call `index`, as JSON text to be joined */
    TEFF_EVENT_CALL_END = 5   /* call `index` is whole */
};

/* News of an answer; it and its texts live as long as the callback runs. */
typedef struct teff_event {
    teff_event_kind kind;
    size_t index;     /* number of the call, from 0 */
    size_t done;      /* tokens, see TEFF_EVENT_PROMPT */
    size_t total;
    const char *text; /* never null; it may have zero bytes before its end if the model wrote some */
    size_t text_len;  /* bytes of `text` */
    const char *id;   /* never null */
} teff_event;

/* Hears of an answer; anything but 0 ends it. `user` is what the request was given. */
typedef int32_t (*teff_callback)(const teff_event *event, void *user);

/* The version of the library, as "0.1.0". Not to be freed. */
const char *teff_version(void);

/* Why the last call of this thread that failed did so; "" if none has. It lives until the thread's next call
 * that fails. Not to be freed. */
const char *teff_last_error(void);

/* Opens a GGUF file and starts its engine. `options` is a JSON object, or null for none:
 *   threads        worker threads; without it the big cores that the process may use
 *   ctx            tokens of a context; without it the model's, 4096 at most
 *   kv_type        "f32", "f16" (default), "q8_0", "q4_0": type of cached keys and values
 *   kv_bytes       bytes that they may take
 *   parallel       requests that run at a time (default 4); more wait
 *   repack         whether decoding may make a copy of the weights (default true)
 *   speculate      "auto" (default), "off", "ngram": several tokens at a time where the text says what comes
 *   draft          file of a small model with the same vocabulary, which says what comes
 *   chat_template  source of a template in place of the file's, or the name of a built-in one as "chatml"
 *   template_args  object of variables of the template
 * A model that only reads texts (an encoder) can be opened for `teff_embed`. */
teff_status teff_model_open(const char *path, const char *options, teff_model **model);

/* Gives the model back, with its threads and memory. Null is passed over. */
void teff_model_free(teff_model *model);

/* Tokens of a context; 0 for null. */
size_t teff_model_ctx(const teff_model *model);

/* A switch for one request, to be freed. */
teff_cancel *teff_cancel_new(void);

/* Ends the request that has the switch, or will have it, within about the time of a layer. Null is passed
 * over. */
void teff_cancel_now(const teff_cancel *cancel);

/* Gives a switch back. Null is passed over. */
void teff_cancel_free(teff_cancel *cancel);

/* Answers a conversation. `request` is JSON as above. `callback`, `cancel` and `result` may be null. `*result`
 * becomes the whole answer, the JSON of a chat.completion, to be freed by teff_string_free. */
teff_status teff_chat(const teff_model *model, const char *request, teff_callback callback, void *user,
                      const teff_cancel *cancel, char **result);

/* Continues a text; the same, and `*result` is the JSON of a text_completion. */
teff_status teff_complete(const teff_model *model, const char *request, teff_callback callback, void *user,
                          const teff_cancel *cancel, char **result);

/* Turns `n` texts into vectors of length 1: `*vectors` becomes `n` times `*dim` floats, one text after the
 * other, to be freed by teff_vectors_free. The first call for a model makes an engine for it. */
teff_status teff_embed(const teff_model *model, const char *const *texts, size_t n, float **vectors,
                       size_t *dim);

/* Gives a result back. Null is passed over. */
void teff_string_free(char *text);

/* Gives vectors back, of which there are `len` floats in all: n times dim. Null is passed over. */
void teff_vectors_free(float *vectors, size_t len);

#ifdef __cplusplus
}
#endif

#endif
