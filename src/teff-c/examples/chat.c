/* Has a model call a tool, and answer in a form that a schema describes: chat MODEL [OPTIONS] */

#include <stdio.h>
#include "teff.h"

static const char *CALL =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"What is the weather in Paris?\"}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"weather\","
    "   \"description\": \"The weather of a city\", \"parameters\": {\"type\": \"object\","
    "     \"properties\": {\"city\": {\"enum\": [\"Paris\", \"Oslo\"]}}, \"required\": [\"city\"]}}}],"
    " \"tool_choice\": \"required\", \"parallel_tool_calls\": false, \"max_tokens\": 256, \"temperature\": 0}";

static const char *FORM =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Is the sky blue? How sure are you?\"}],"
    " \"response_format\": {\"type\": \"json_schema\", \"json_schema\": {\"name\": \"answer\","
    "   \"schema\": {\"type\": \"object\", \"properties\": {\"answer\": {\"type\": \"boolean\"},"
    "     \"sure\": {\"enum\": [\"yes\", \"no\"]}}, \"required\": [\"answer\", \"sure\"],"
    "     \"additionalProperties\": false}}},"
    " \"max_tokens\": 128, \"temperature\": 0}";

static int32_t show(const teff_event *event, void *user) {
    (void)user;
    switch (event->kind) {
    case TEFF_EVENT_CALL:
        printf("call %zu of %s with ", event->index, event->text);
        break;
    case TEFF_EVENT_TEXT:
    case TEFF_EVENT_ARGUMENTS:
        fwrite(event->text, 1, event->text_len, stdout);
        break;
    case TEFF_EVENT_CALL_END:
        printf("\n");
        break;
    }
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: chat MODEL [OPTIONS]\n");
        return 2;
    }
    teff_model *model = NULL;
    char *whole = NULL;
    int ok = teff_model_open(argv[1], argc > 2 ? argv[2] : NULL, &model) == TEFF_OK
        && teff_chat(model, CALL, show, NULL, NULL, NULL) == TEFF_OK
        && teff_chat(model, FORM, show, NULL, NULL, &whole) == TEFF_OK;
    if (ok) {
        printf("\n%s\n", whole);
    } else {
        fprintf(stderr, "%s\n", teff_last_error());
    }
    teff_string_free(whole);
    teff_model_free(model);
    return ok ? 0 : 1;
}
