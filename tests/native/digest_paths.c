/* The portable code of digest.c against the code that this machine's processor gets, for every
 * short length and some long ones. test_digest.py holds the latter against published values;
 * without this a machine with AVX2 and SSE4.2 would never run the former.
 */
#define RW_PORTABLE
#define rw_xxh3   portable_xxh3
#define rw_crc32c portable_crc32c
#include "../../csrc/digest.c"
#undef rw_xxh3
#undef rw_crc32c

#include <stdio.h>
#include <stdlib.h>

uint64_t rw_xxh3(const uint8_t *data, uint64_t bytes);
uint32_t rw_crc32c(uint32_t seed, const void *data, size_t bytes);

enum { SHORT = 3000, LONG = 1 << 18 };

static int same(const uint8_t *data, size_t bytes)
{
    if (portable_xxh3(data, bytes) == rw_xxh3(data, bytes) &&
        portable_crc32c(7, data, bytes) == rw_crc32c(7, data, bytes))
        return 1;
    fprintf(stderr, "the digests of %zu bytes differ\n", bytes);
    return 0;
}

int main(void)
{
    uint8_t *data = malloc(LONG);
    if (data == NULL)
        return 1;
    uint32_t state = 2463534242u;
    for (size_t i = 0; i < LONG; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        data[i] = (uint8_t)(state >> 11);
    }
    int good = 1;
    for (size_t bytes = 0; bytes <= SHORT; bytes++)
        /* the end of the allocation: a byte too far is seen */
        good &= same(data + LONG - bytes, bytes);
    for (size_t bytes = LONG; bytes > SHORT; bytes = bytes * 3 / 4 - 1)
        good &= same(data + LONG - bytes, bytes);
    free(data);
    return !good;
}
