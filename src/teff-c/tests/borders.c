/* What a caller can do wrong, and what ends answers: borders MODEL. Nothing on stdout but "ok". */

#include <stdio.h>
#include <string.h>
#include "teff.h"

#define CHECK(it) \
    do { \
        if (!(it)) { \
            fprintf(stderr, "line %d: %s (last error: %s)\n", __LINE__, #it, teff_last_error()); \
            return 1; \
        } \
    } while (0)
#define SAYS(words) CHECK(strstr(teff_last_error(), words) != NULL)

struct heard {
    size_t n_text, stop_after;
    char text[4096];
};

static int32_t hear(const teff_event *event, void *user) {
    struct heard *heard = user;
    if (event->kind == TEFF_EVENT_TEXT) {
        heard->n_text++;
        if (strlen(heard->text) + event->text_len < sizeof heard->text) {
            strcat(heard->text, event->text);
        }
    }
    return heard->stop_after && heard->n_text >= heard->stop_after;
}

static const char *LONG = "{\"prompt\": \"ab\", \"max_tokens\": 64, \"temperature\": 0, \"ignore_eos\": true}";

static int cancels(teff_model *model) {
    struct heard heard = {0};
    char *whole = NULL;
    heard.stop_after = 1;
    CHECK(teff_complete(model, LONG, hear, &heard, NULL, &whole) == TEFF_CANCELLED);
    SAYS("cancelled");
    CHECK(heard.n_text == 1 && whole == NULL);
    teff_cancel *cancel = teff_cancel_new();
    teff_cancel_now(cancel);
    CHECK(teff_complete(model, LONG, NULL, NULL, cancel, &whole) == TEFF_CANCELLED && whole == NULL);
    teff_cancel_free(cancel);
    memset(&heard, 0, sizeof heard);
    cancel = teff_cancel_new();
    CHECK(teff_complete(model, LONG, hear, &heard, cancel, &whole) == TEFF_OK);
    CHECK(heard.n_text > 1 && strstr(whole, "\"text_completion\""));
    teff_cancel_now(cancel); /* it has ended */
    teff_cancel_free(cancel);
    teff_string_free(whole);
    return 0;
}

static int refusals(teff_model *model) {
    char *whole = NULL;
    float *vectors = NULL;
    size_t dim = 0;
    const char *none[] = {"a", NULL}, *empty[] = {""};
    CHECK(teff_complete(NULL, LONG, NULL, NULL, NULL, &whole) == TEFF_ERROR_ARGUMENT);
    SAYS("model is null");
    CHECK(teff_complete(model, NULL, NULL, NULL, NULL, &whole) == TEFF_ERROR_ARGUMENT);
    SAYS("request is null");
    CHECK(teff_complete(model, "{\"prompt\": \"\xff\"}", NULL, NULL, NULL, &whole) == TEFF_ERROR_ARGUMENT);
    SAYS("not UTF-8 at byte 12");
    CHECK(teff_complete(model, "{\"prompt\": ", NULL, NULL, NULL, &whole) == TEFF_ERROR_REQUEST);
    SAYS("no JSON");
    CHECK(teff_complete(model, "[]", NULL, NULL, NULL, &whole) == TEFF_ERROR_REQUEST);
    CHECK(teff_complete(model, "{\"prompt\": [\"a\", \"b\"]}", NULL, NULL, NULL, &whole) == TEFF_ERROR_REQUEST);
    SAYS("prompt");
    CHECK(teff_complete(model, "{\"prompt\": \"a\", \"n\": 2}", NULL, NULL, NULL, &whole) == TEFF_ERROR_REQUEST);
    SAYS("n: ");
    CHECK(teff_complete(model, "{\"prompt\": \"a\", \"top_p\": 7}", NULL, NULL, NULL, &whole) == TEFF_ERROR_REQUEST);
    SAYS("top_p");
    CHECK(teff_chat(model, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", NULL, NULL, NULL, &whole)
          == TEFF_ERROR_REQUEST);
    SAYS("the option `chat_template` takes the source of one, or one of chatml, ");
    CHECK(whole == NULL);
    CHECK(teff_embed(model, none, 2, &vectors, &dim) == TEFF_ERROR_ARGUMENT);
    CHECK(teff_embed(model, NULL, 2, &vectors, &dim) == TEFF_ERROR_ARGUMENT);
    CHECK(teff_embed(model, none, 1, NULL, &dim) == TEFF_ERROR_ARGUMENT);
    CHECK(teff_embed(model, none, 1, &vectors, NULL) == TEFF_ERROR_ARGUMENT);
    CHECK(teff_embed(model, none, 0, &vectors, &dim) == TEFF_ERROR_REQUEST);
    CHECK(teff_embed(model, empty, 1, &vectors, &dim) == TEFF_OK || strlen(teff_last_error()) > 0);
    teff_vectors_free(vectors, dim);
    return 0;
}

int main(int argc, char **argv) {
    teff_model *model = NULL;
    CHECK(argc == 2 && strlen(teff_version()) >= 5 && strcmp(teff_last_error(), "") == 0);
    CHECK(teff_model_open(NULL, NULL, &model) == TEFF_ERROR_ARGUMENT);
    CHECK(teff_model_open(argv[1], NULL, NULL) == TEFF_ERROR_ARGUMENT);
    CHECK(teff_model_open("no such file", NULL, &model) == TEFF_ERROR_FAILED);
    SAYS("no such file");
    CHECK(teff_model_open(argv[1], "{\"thread\": 1}", &model) == TEFF_ERROR_REQUEST);
    SAYS("thread");
    CHECK(teff_model_open(argv[1], "1", &model) == TEFF_ERROR_REQUEST && model == NULL);
    CHECK(teff_model_open(argv[1], "{\"threads\": 1, \"ctx\": 128}", &model) == TEFF_OK);
    CHECK(teff_model_ctx(model) == 128 && teff_model_ctx(NULL) == 0);
    if (cancels(model) || refusals(model)) {
        return 1;
    }
    teff_model_free(model);
    teff_model_free(NULL);
    teff_cancel_now(NULL);
    teff_cancel_free(NULL);
    teff_string_free(NULL);
    teff_vectors_free(NULL, 3);
    printf("ok");
    return 0;
}
