/* Says how near the meanings of texts are to the first one's: embed MODEL TEXT TEXT.. */

#include <stdio.h>
#include "teff.h"

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: embed MODEL TEXT TEXT..\n");
        return 2;
    }
    const char *const *texts = (const char *const *)(argv + 2);
    size_t n = (size_t)argc - 2, dim = 0;
    teff_model *model = NULL;
    float *vectors = NULL;
    if (teff_model_open(argv[1], NULL, &model) != TEFF_OK
        || teff_embed(model, texts, n, &vectors, &dim) != TEFF_OK) {
        fprintf(stderr, "%s\n", teff_last_error());
        teff_model_free(model);
        return 1;
    }
    for (size_t i = 1; i < n; i++) {
        float near = 0;
        for (size_t j = 0; j < dim; j++) {
            near += vectors[j] * vectors[i * dim + j];
        }
        printf("%.4f %s\n", near, texts[i]);
    }
    teff_vectors_free(vectors, n * dim);
    teff_model_free(model);
    return 0;
}
