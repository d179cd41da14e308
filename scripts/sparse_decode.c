// What a sparse layout could gain in decoding, before anything of it is built: products of a matrix that no
// cache holds with one vector, dense and as a bitmap of one bit a weight beside the packed codes of those that are
// not zero, for AVX2. Half of each row of 2048 is zero. The codes of eight weights are put in their places by a
// byte shuffle, whose control a table has for each byte of the bitmap; how many codes that takes is its popcount.
// "2:4" has two codes of every four and their places, two bits each. There the vector's elements are shuffled to
// the codes instead: eight rows lie side by side, a row to each 32-bit lane, as teff interleaves them; "by 8" are
// dense rows in that order.
//
//   cc -O3 -march=native -o /tmp/sparse_decode scripts/sparse_decode.c -lpthread
//   /tmp/sparse_decode ROWS THREADS REPETITIONS
//
// Prints weights per nanosecond and GB/s of each, by the time that a thread ran (others may share the machine), the
// best of the repetitions, in turn. With 256 rows everything is in the cache: that is what expanding allows at most.

#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { COLS = 2048, BLOCKS = COLS / 32, Q8_BYTES = 34, Q4_BYTES = 18, AHEAD = 4096 };

// Shuffles that put eight codes in their places: of bytes from the front, from byte 8 on, and of halves.
static uint64_t low[256], high[256];
static __m128i halves[256];

static int8_t x8[COLS];
static float x32[COLS], x_scale[BLOCKS];

static size_t n_rows;
static uint8_t *dense8, *dense4, *codes8, *codes4;
static uint16_t *dense16, *codes16, *scales;
static uint32_t *masks, *starts4;
static float *y;

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Memory in huge pages, with room to read beyond its end.
static void *memory(size_t n) {
    n = (n + AHEAD + (2 << 20)) & ~((size_t)(2 << 20) - 1);
    void *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) exit(1);
    madvise(p, n, MADV_HUGEPAGE);
    memset(p, 1, n);
    return p;
}

static void make_tables(void) {
    for (int mask = 0; mask < 256; mask++) {
        uint8_t a[8], b[8], h[16];
        int rank = 0;
        for (int i = 0; i < 8; i++) {
            int on = mask >> i & 1;
            a[i] = on ? rank : 0x80;
            b[i] = on ? rank + 8 : 0x80;
            h[2 * i] = on ? 2 * rank : 0x80;
            h[2 * i + 1] = on ? 2 * rank + 1 : 0x80;
            rank += on;
        }
        memcpy(&low[mask], a, 8), memcpy(&high[mask], b, 8), memcpy(&halves[mask], h, 16);
    }
}

static inline float sum(__m256 v) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_hadd_ps(a, a);
    return _mm_cvtss_f32(_mm_hadd_ps(a, a));
}

static inline float wide(uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }

static inline __m256 dot8(__m256 acc, __m256i w, int block, uint16_t scale) {
    __m256i x = _mm256_loadu_si256((const void *)(x8 + 32 * block));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    __m256 sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    return _mm256_fmadd_ps(sums, _mm256_set1_ps(wide(scale) * x_scale[block]), acc);
}

static inline __m128i pair(const void *a, const void *b) {
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64(a)), b));
}

// The 32 codes of a block in their places.
static inline __m256i expand8(uint32_t mask, const uint8_t *codes) {
    const uint8_t *at1 = codes + __builtin_popcount(mask & 0xff);
    const uint8_t *at2 = codes + __builtin_popcount(mask & 0xffff);
    const uint8_t *at3 = codes + __builtin_popcount(mask & 0xffffff);
    __m256i packed = _mm256_set_m128i(pair(at2, at3), pair(codes, at1));
    __m128i first = pair(&low[mask & 255], &high[mask >> 8 & 255]);
    __m128i second = pair(&low[mask >> 16 & 255], &high[mask >> 24]);
    return _mm256_shuffle_epi8(packed, _mm256_set_m128i(second, first));
}

static void read_all(size_t from, size_t to) {
    const __m256i *v = (const void *)(dense16 + from * COLS);
    __m256i a = _mm256_setzero_si256(), b = a;
    for (size_t i = 0; i < (to - from) * COLS / 16; i += 4) {
        a = _mm256_add_epi8(a, _mm256_add_epi8(v[i], v[i + 1]));
        b = _mm256_add_epi8(b, _mm256_add_epi8(v[i + 2], v[i + 3]));
    }
    y[from] = _mm256_extract_epi32(_mm256_add_epi8(a, b), 0);
}

static void q8_dense(size_t from, size_t to) {
    for (size_t row = from; row < to; row++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            const uint8_t *block = dense8 + (row * BLOCKS + i) * Q8_BYTES;
            _mm_prefetch((const char *)block + AHEAD, _MM_HINT_T0);
            acc = dot8(acc, _mm256_loadu_si256((const void *)(block + 2)), i, *(const uint16_t *)block);
        }
        y[row] = sum(acc);
    }
}

static void q8_sparse(size_t from, size_t to) {
    const uint8_t *codes = codes8 + from * COLS / 2;
    for (size_t row = from; row < to; row++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            uint32_t mask = masks[row * BLOCKS + i];
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            acc = dot8(acc, expand8(mask, codes), i, scales[row * BLOCKS + i]);
            codes += __builtin_popcount(mask);
        }
        y[row] = sum(acc);
    }
}

static inline __m256i nibbles(__m128i packed) {
    __m128i a = _mm_and_si128(packed, _mm_set1_epi8(15));
    __m128i b = _mm_and_si128(_mm_srli_epi16(packed, 4), _mm_set1_epi8(15));
    return _mm256_set_m128i(b, a);
}

static void q4_dense(size_t from, size_t to) {
    for (size_t row = from; row < to; row++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            const uint8_t *block = dense4 + (row * BLOCKS + i) * Q4_BYTES;
            _mm_prefetch((const char *)block + AHEAD, _MM_HINT_T0);
            __m256i w = nibbles(_mm_loadu_si128((const void *)(block + 2)));
            w = _mm256_sub_epi8(w, _mm256_set1_epi8(8));
            acc = dot8(acc, w, i, *(const uint16_t *)block);
        }
        y[row] = sum(acc);
    }
}

// Codes of a block begin at a byte; their sign is spread by a table of sixteen.
static void q4_sparse(size_t from, size_t to) {
    const uint8_t *codes = codes4 + starts4[from];
    const __m256i values = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
    for (size_t row = from; row < to; row++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            uint32_t mask = masks[row * BLOCKS + i];
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            __m256i two = nibbles(_mm_loadu_si128((const void *)codes));
            __m128i a = _mm256_castsi256_si128(two), b = _mm256_extracti128_si256(two, 1);
            __m256i all = _mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b));
            uint8_t unpacked[40] __attribute__((aligned(32)));
            _mm256_store_si256((void *)unpacked, _mm256_shuffle_epi8(values, all));
            acc = dot8(acc, expand8(mask, unpacked), i, scales[row * BLOCKS + i]);
            codes += (__builtin_popcount(mask) + 1) / 2;
        }
        y[row] = sum(acc);
    }
}

static void f16_dense(size_t from, size_t to) {
    for (size_t row = from; row < to; row++) {
        __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int i = 0; i < COLS; i += 32) {
            const uint16_t *w = dense16 + row * COLS + i;
            _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
            for (int k = 0; k < 4; k++) {
                __m256 own = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(w + 8 * k)));
                acc[k] = _mm256_fmadd_ps(own, _mm256_loadu_ps(x32 + i + 8 * k), acc[k]);
            }
        }
        y[row] = sum(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
    }
}

static void f16_sparse(size_t from, size_t to) {
    const uint16_t *codes = codes16 + from * COLS / 2;
    for (size_t row = from; row < to; row++) {
        __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (int i = 0; i < BLOCKS; i++) {
            uint32_t mask = masks[row * BLOCKS + i];
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            for (int k = 0; k < 4; k++) {
                const uint16_t *at = codes + __builtin_popcount(mask & ((1u << 8 * k) - 1));
                __m128i own = _mm_shuffle_epi8(_mm_loadu_si128((const void *)at), halves[mask >> 8 * k & 255]);
                __m256 in = _mm256_loadu_ps(x32 + 32 * i + 8 * k);
                acc[k] = _mm256_fmadd_ps(_mm256_cvtph_ps(own), in, acc[k]);
            }
            codes += __builtin_popcount(mask);
        }
        y[row] = sum(_mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3])));
    }
}

// A group of eight rows, block by block: the places, in bits 2k and 2k + 1 of byte b of a row's word those of code
// 4k + b of its block; then for each k codes 4k to 4k + 3 of each row (Q4_0: those of k and k + 2 in a byte); scales.
enum { G8_BYTES = 32 + 4 * 32 + 16, G4_BYTES = 32 + 2 * 32 + 16 };
static uint8_t *groups8, *groups4;

// Asks for the lines of a block, some time before it is read.
static inline void ahead(const uint8_t *block, int bytes) {
    for (int line = 0; line < bytes; line += 64) _mm_prefetch((const char *)block + 2048 + line, _MM_HINT_T0);
}

static inline __m256i chosen(__m256i places, int k, int block) {
    const __m256i second_half = _mm256_set1_epi32(0x04040000);
    long long eight;
    memcpy(&eight, x8 + 32 * block + 8 * k, 8);
    __m256i at = _mm256_and_si256(_mm256_srli_epi16(places, 2 * k), _mm256_set1_epi8(3));
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), _mm256_or_si256(at, second_half));
}

static inline __m256i lanes(__m256i sums, __m256i w, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline __m256 scaled(__m256 acc, __m256i sums, const uint8_t *scales, int block) {
    __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const void *)scales));
    return _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(x_scale[block])), _mm256_cvtepi32_ps(sums), acc);
}

// Dense groups of eight rows: word k holds codes 4k to 4k + 3 of each row (Q4_0: and those of k + 4).
static inline __m256i four(int k, int block) {
    int x;
    memcpy(&x, x8 + 32 * block + 4 * k, 4);
    return _mm256_set1_epi32(x);
}

static void q8_dense_groups(size_t from, size_t to) {
    for (size_t group = from / 8; group < to / 8; group++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            const uint8_t *at = dense8 + (group * BLOCKS + i) * 8 * Q8_BYTES;
            ahead(at, 8 * Q8_BYTES);
            __m256i sums = _mm256_setzero_si256();
            for (int k = 0; k < 8; k++)
                sums = lanes(sums, _mm256_loadu_si256((const void *)(at + 32 * k)), four(k, i));
            acc = scaled(acc, sums, (const void *)(scales + (group * BLOCKS + i) * 8), i);
        }
        _mm256_storeu_ps(y + 8 * group, acc);
    }
}

static void q4_dense_groups(size_t from, size_t to) {
    for (size_t group = from / 8; group < to / 8; group++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            const uint8_t *at = dense4 + (group * BLOCKS + i) * 8 * Q4_BYTES;
            ahead(at, 8 * Q4_BYTES);
            // Sums of eight pairs of products of 15 and 127 fit an i16; what the offset adds is known.
            __m256i run = _mm256_setzero_si256();
            for (int k = 0; k < 8; k++) {
                __m256i two = _mm256_loadu_si256((const void *)(at + 32 * (k % 4)));
                if (k >= 4) two = _mm256_srli_epi16(two, 4);
                __m256i w = _mm256_and_si256(two, _mm256_set1_epi8(15));
                run = _mm256_add_epi16(run, _mm256_maddubs_epi16(w, four(k, i)));
            }
            __m256i sums = _mm256_madd_epi16(run, _mm256_set1_epi16(1));
            sums = _mm256_sub_epi32(sums, _mm256_set1_epi32(8 * 77));
            acc = scaled(acc, sums, at + 128, i);
        }
        _mm256_storeu_ps(y + 8 * group, acc);
    }
}

static void q8_groups(size_t from, size_t to) {
    for (size_t group = from / 8; group < to / 8; group++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            const uint8_t *at = groups8 + (group * BLOCKS + i) * G8_BYTES;
            ahead(at, G8_BYTES);
            __m256i places = _mm256_loadu_si256((const void *)at), sums = _mm256_setzero_si256();
            for (int k = 0; k < 4; k++) {
                __m256i w = _mm256_loadu_si256((const void *)(at + 32 + 32 * k));
                sums = lanes(sums, w, chosen(places, k, i));
            }
            acc = scaled(acc, sums, at + 32 + 4 * 32, i);
        }
        _mm256_storeu_ps(y + 8 * group, acc);
    }
}

static void q4_groups(size_t from, size_t to) {
    for (size_t group = from / 8; group < to / 8; group++) {
        __m256 acc = _mm256_setzero_ps();
        for (int i = 0; i < BLOCKS; i++) {
            const uint8_t *at = groups4 + (group * BLOCKS + i) * G4_BYTES;
            ahead(at, G4_BYTES);
            __m256i places = _mm256_loadu_si256((const void *)at), sums = _mm256_setzero_si256();
            for (int k = 0; k < 4; k++) {
                __m256i two = _mm256_loadu_si256((const void *)(at + 32 + 32 * (k % 2)));
                if (k >= 2) two = _mm256_srli_epi16(two, 4);
                __m256i w = _mm256_sub_epi8(_mm256_and_si256(two, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
                sums = lanes(sums, w, chosen(places, k, i));
            }
            acc = scaled(acc, sums, at + 32 + 2 * 32, i);
        }
        _mm256_storeu_ps(y + 8 * group, acc);
    }
}

typedef void Product(size_t from, size_t to);
static const struct { const char *name; Product *run; double bits; } all[] = {
    {"read", read_all, 16},
    {"Q8_0", q8_dense, 8.5}, {"Q8_0 sparse", q8_sparse, 5.5},
    {"Q4_0", q4_dense, 4.5}, {"Q4_0 sparse", q4_sparse, 3.75},
    {"F16", f16_dense, 16}, {"F16 sparse", f16_sparse, 9},
    {"Q8_0 by 8", q8_dense_groups, 8.5}, {"Q8_0 2:4", q8_groups, 5.5},
    {"Q4_0 by 8", q4_dense_groups, 4.5}, {"Q4_0 2:4", q4_groups, 3.5},
};
enum { N = sizeof all / sizeof *all };

typedef struct { int which; size_t from, to; double time; } Part;

static void *work(void *part) {
    Part *own = part;
    double start = seconds(CLOCK_THREAD_CPUTIME_ID);
    all[own->which].run(own->from, own->to);
    own->time = seconds(CLOCK_THREAD_CPUTIME_ID) - start;
    return 0;
}

// Rows with the same columns in each form; of 64 patterns, each with half its columns zero.
static void draw(void) {
    srand(7);
    for (int i = 0; i < COLS; i++) x8[i] = rand() % 255 - 127, x32[i] = 0.01f * x8[i];
    for (int i = 0; i < BLOCKS; i++) x_scale[i] = 0.01f;
    size_t end4 = 0;
    for (size_t row = 0; row < n_rows; row++) {
        uint32_t *mask = masks + row * BLOCKS;
        memset(mask, 0, 4 * BLOCKS);
        for (int c = 0, left = COLS / 2; c < COLS && row < 64; c++)
            if (rand() % (COLS - c) < left) mask[c / 32] |= 1u << c % 32, left--;
        if (row >= 64) memcpy(mask, masks + row % 64 * BLOCKS, 4 * BLOCKS);
        starts4[row] = end4;
        size_t next = row * COLS / 2, n4 = 0;
        for (int c = 0; c < COLS; c++) {
            size_t block = row * BLOCKS + c / 32;
            uint8_t *b8 = dense8 + block * Q8_BYTES, *b4 = dense4 + block * Q4_BYTES;
            if (c % 32 == 0) {
                *(uint16_t *)b8 = *(uint16_t *)b4 = scales[block] = 0x2000;
                memset(b4 + 2, 0, 16);
                end4 += (n4 + 1) / 2, n4 = 0;
            }
            int on = mask[c / 32] >> c % 32 & 1;
            int8_t w8 = on ? 1 + (c * 7 + row) % 120 : 0;
            uint16_t w16 = on ? 0x3000 + (c * 5 + row) % 512 : 0;
            int w4 = on ? 9 + (c * 3 + row) % 7 : 8;
            b8[2 + c % 32] = w8;
            b4[2 + c % 16] |= w4 << (c % 32 / 16 * 4);
            dense16[row * COLS + c] = w16;
            if (!on) continue;
            uint8_t *at = codes4 + end4 + n4 / 2;
            *at = n4 % 2 ? *at | w4 << 4 : w4;
            codes8[next] = w8, codes16[next] = w16, next++, n4++;
        }
        end4 += (n4 + 1) / 2;
    }
}

// Any codes: what is measured does not depend on them. The first group is checked by `check_groups`.
static void draw_groups(void) {
    for (size_t at = 0; at < n_rows / 8 * BLOCKS * G8_BYTES; at++) groups8[at] = at * 2654435761u >> 13;
    for (size_t at = 0; at < n_rows / 8 * BLOCKS * G4_BYTES; at++) groups4[at] = at * 2654435761u >> 11;
    for (size_t block = 0; block < n_rows / 8 * BLOCKS; block++)
        for (int r = 0; r < 8; r++) {
            uint16_t scale = 0x2000;
            memcpy(groups8 + block * G8_BYTES + 160 + 2 * r, &scale, 2);
            memcpy(groups4 + block * G4_BYTES + 96 + 2 * r, &scale, 2);
        }
}

// The products of the first rows, one by one.
static void check_groups(void) {
    for (int type = 0; type < 2; type++) {
        (type ? q4_groups : q8_groups)(0, 8);
        for (int r = 0; r < 8; r++) {
            float sum = 0;
            for (int i = 0; i < BLOCKS; i++) {
                const uint8_t *at = type ? groups4 + i * G4_BYTES : groups8 + i * G8_BYTES;
                int isum = 0;
                for (int k = 0; k < 4; k++)
                    for (int b = 0; b < 4; b++) {
                        int place = (at[4 * r + b] >> 2 * k & 3) + 8 * k + (b >= 2 ? 4 : 0);
                        const uint8_t *codes = at + 32 + 4 * r + b;
                        int w = type ? (codes[32 * (k % 2)] >> (k >= 2 ? 4 : 0) & 15) - 8 : (int8_t)codes[32 * k];
                        isum += w * x8[32 * i + place];
                    }
                sum = __builtin_fmaf(wide(0x2000) * x_scale[i], isum, sum);
            }
            if (sum != y[r]) printf("2:4, row %d: %g and %g\n", r, sum, y[r]);
        }
    }
}

int main(int argc, char **argv) {
    n_rows = argc > 1 ? atol(argv[1]) : 49152;
    int threads = argc > 2 ? atoi(argv[2]) : 1, reps = argc > 3 ? atoi(argv[3]) : 15;
    size_t n = n_rows * COLS;
    dense8 = memory(n / 32 * Q8_BYTES), dense4 = memory(n / 32 * Q4_BYTES), dense16 = memory(2 * n);
    codes8 = memory(n / 2), codes4 = memory(n / 2), codes16 = memory(n), scales = memory(n / 16);
    masks = memory(n / 8), starts4 = memory(4 * n_rows), y = memory(4 * n_rows);
    groups8 = memory(n / 256 * G8_BYTES), groups4 = memory(n / 256 * G4_BYTES);
    make_tables(), draw(), draw_groups(), check_groups();
    double best[N];
    for (int k = 0; k < N; k++) best[k] = 1e9;
    float told[N];
    for (int k = 1; k < N; k++) all[k].run(0, 8), told[k] = y[5];
    for (int k = 1; k < 7; k += 2)
        if (told[k] != told[k + 1]) printf("%s: %g and %g\n", all[k].name, told[k], told[k + 1]);
    for (int rep = 0; rep < reps; rep++)
        for (int k = 0; k < N; k++) {
            pthread_t thread[64];
            Part parts[64];
            double time = 0;
            for (int i = threads - 1; i >= 0; i--) {
                parts[i] = (Part){k, n_rows * i / threads, n_rows * (i + 1) / threads, 0};
                if (i > 0) pthread_create(thread + i, 0, work, parts + i);
            }
            work(parts);
            for (int i = 1; i < threads; i++) pthread_join(thread[i], 0);
            for (int i = 0; i < threads; i++) time = time > parts[i].time ? time : parts[i].time;
            best[k] = best[k] < time ? best[k] : time;
        }
    for (int k = 0; k < N; k++)
        printf("%-12s %6.2f weights/ns %6.1f GB/s\n", all[k].name, 1e-9 * n / best[k],
               1e-9 * n * all[k].bits / 8 / best[k]);
    for (int k = 1; k < N; k += 2) printf("%s: %.2fx\n", all[k + 1].name, best[k] / best[k + 1]);
}
