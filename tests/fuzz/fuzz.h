/* What every fuzz target has. libFuzzer finds the two entries by their names; where there is no
 * libFuzzer, drive.c calls them and stands in for LLVMFuzzerMutate. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

/* A broken promise that no sanitizer sees. */
#define FUZZ_REQUIRE(condition) ((condition) ? (void)0 : fuzz_die(__FILE__, __LINE__, #condition))

_Noreturn static inline void fuzz_die(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    abort();
}

/* Bytes of their own, exactly as many: AddressSanitizer sees the first one too far. Never NULL. */
static inline uint8_t *fuzz_bytes(uint64_t bytes)
{
    uint8_t *p = calloc(1, bytes ? bytes : 1);
    FUZZ_REQUIRE(p != NULL);
    return p;
}

static inline uint8_t *fuzz_copy(const void *from, uint64_t bytes)
{
    uint8_t *p = fuzz_bytes(bytes);
    memcpy(p, from, bytes);
    return p;
}

/* Random numbers that a seed decides. */
typedef struct fuzz_dice {
    uint64_t state;
} fuzz_dice;

static inline uint64_t fuzz_roll(fuzz_dice *d)
{
    uint64_t x = d->state += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static inline uint64_t fuzz_below(fuzz_dice *d, uint64_t sides)
{
    return sides ? fuzz_roll(d) % sides : 0;
}

/* A value that code tends to get wrong: an edge, or near what was there. */
static inline uint64_t fuzz_edge(fuzz_dice *d, uint64_t old)
{
    static const uint64_t edges[] = {0,   1,   2,   7,    64,   79,   80,  81,
                                     127, 128, 129, 4095, 4096, 4097, 8192};
    uint64_t n = fuzz_below(d, 9);
    switch (fuzz_below(d, 6)) {
    case 0:
        return edges[fuzz_below(d, sizeof edges / sizeof *edges)];
    case 1:
        return (1ull << fuzz_below(d, 64)) - n;
    case 2:
        return old + n - 4;
    case 3:
        return old + 4096 * (n - 4);
    case 4:
        return 0 - old - 4096 * n;
    default:
        return fuzz_roll(d) >> fuzz_below(d, 64);
    }
}

#endif
