/* Continues a text, which is shown as it comes: generate MODEL TEXT
 * The text goes into JSON as it is: this example does not know quotes and backslashes. */

#include <stdio.h>
#include <stdlib.h>
#include "teff.h"

static int32_t show(const teff_event *event, void *user) {
    (void)user;
    if (event->kind == TEFF_EVENT_TEXT) {
        fwrite(event->text, 1, event->text_len, stdout);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: generate MODEL TEXT\n");
        return 2;
    }
    teff_model *model = NULL;
    if (teff_model_open(argv[1], NULL, &model) != TEFF_OK) {
        fprintf(stderr, "%s\n", teff_last_error());
        return 1;
    }
    size_t bytes = 128 + snprintf(NULL, 0, "%s", argv[2]);
    char *request = malloc(bytes);
    snprintf(request, bytes, "{\"prompt\": \"%s\", \"max_tokens\": 24, \"temperature\": 0}", argv[2]);
    teff_status status = teff_complete(model, request, show, NULL, NULL, NULL);
    if (status == TEFF_OK) {
        printf("\n");
    } else {
        fprintf(stderr, "%s\n", teff_last_error());
    }
    free(request);
    teff_model_free(model);
    return status == TEFF_OK ? 0 : 1;
}
