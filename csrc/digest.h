/* Checksums. XXH3-64 (seed 0) guards payloads; CRC-32C (Castagnoli) guards headers.
 *
 * The engine's C loops check a digest per record without touching a Python object, and a C library
 * to link with is not something that `pip install` can count on; so XXH3-64 is written here from
 * its published specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
 * tests/native/test_digest.py holds it against the `xxhash` package for every length that takes a
 * path of its own.
 */
#ifndef RW_DIGEST_H
#define RW_DIGEST_H

#include <stddef.h>
#include <stdint.h>

uint64_t rw_xxh3(const uint8_t *data, uint64_t bytes);

/* `seed` is the CRC of what came before (0 at the start), so pieces can be chained. */
uint32_t rw_crc32c(uint32_t seed, const void *data, size_t bytes);

#endif
