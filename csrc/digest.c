#include "digest.h"

#include <string.h>

#define P32_1 0x9E3779B1u
#define P32_2 0x85EBCA77u
#define P32_3 0xC2B2AE3Du
#define P64_1 0x9E3779B185EBCA87ull
#define P64_2 0xC2B2AE3D27D4EB4Full
#define P64_3 0x165667B19E3779F9ull
#define P64_4 0x85EBCA77C2B2AE63ull
#define P64_5 0x27D4EB2F165667C5ull
#define PMX_1 0x165667919E3779F9ull
#define PMX_2 0x9FB21C651E98DF25ull

#define SECRET_BYTES 192
#define STRIPE       64
#define STRIPES      16 /* per block: (192 - 64) / 8 */

/* The default secret of the specification. */
static const uint8_t secret[SECRET_BYTES] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static inline uint64_t read64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
static inline uint32_t read32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline uint64_t rotl(uint64_t v, int n) { return (v << n) | (v >> (64 - n)); }

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}
static inline uint64_t avalanche(uint64_t h)
{
    h ^= h >> 37;
    h *= PMX_1;
    return h ^ (h >> 32);
}
static inline uint64_t avalanche64(uint64_t h)
{
    h ^= h >> 33;
    h *= P64_2;
    h ^= h >> 29;
    h *= P64_3;
    return h ^ (h >> 32);
}
static inline uint64_t mix16(const uint8_t *in, const uint8_t *key)
{
    return fold(read64(in) ^ read64(key), read64(in + 8) ^ read64(key + 8));
}

static uint64_t up_to_16(const uint8_t *in, uint64_t n)
{
    if (n > 8) {
        uint64_t low = read64(in) ^ read64(secret + 24) ^ read64(secret + 32);
        uint64_t high = read64(in + n - 8) ^ read64(secret + 40) ^ read64(secret + 48);
        return avalanche(n + __builtin_bswap64(low) + high + fold(low, high));
    }
    if (n >= 4) {
        uint64_t h = read32(in + n - 4) + ((uint64_t)read32(in) << 32);
        h ^= read64(secret + 8) ^ read64(secret + 16);
        h ^= rotl(h, 49) ^ rotl(h, 24);
        h *= PMX_2;
        h ^= (h >> 35) + n;
        h *= PMX_2;
        return h ^ (h >> 28);
    }
    if (n > 0) {
        uint32_t combined =
            ((uint32_t)in[0] << 16) | ((uint32_t)in[n >> 1] << 24) | in[n - 1] | ((uint32_t)n << 8);
        return avalanche64(combined ^ (uint64_t)(read32(secret) ^ read32(secret + 4)));
    }
    return avalanche64(read64(secret + 56) ^ read64(secret + 64));
}

static uint64_t up_to_128(const uint8_t *in, uint64_t n)
{
    uint64_t acc = n * P64_1;
    if (n > 96)
        acc += mix16(in + 48, secret + 96) + mix16(in + n - 64, secret + 112);
    if (n > 64)
        acc += mix16(in + 32, secret + 64) + mix16(in + n - 48, secret + 80);
    if (n > 32)
        acc += mix16(in + 16, secret + 32) + mix16(in + n - 32, secret + 48);
    return avalanche(acc + mix16(in, secret) + mix16(in + n - 16, secret + 16));
}

static uint64_t up_to_240(const uint8_t *in, uint64_t n)
{
    uint64_t acc = n * P64_1, rounds = n / 16;
    for (uint64_t i = 0; i < 8; i++)
        acc += mix16(in + 16 * i, secret + 16 * i);
    acc = avalanche(acc);
    for (uint64_t i = 8; i < rounds; i++)
        acc += mix16(in + 16 * i, secret + 16 * (i - 8) + 3);
    return avalanche(acc + mix16(in + n - 16, secret + 136 - 17));
}

/* The one loop that matters for long payloads: eight lanes of 32x32 multiplies. */
static void stripes(uint64_t *restrict acc, const uint8_t *restrict in, const uint8_t *restrict key,
                    uint64_t count)
{
    for (uint64_t s = 0; s < count; s++, in += STRIPE, key += 8) {
        uint64_t data[8], keyed[8];
        memcpy(data, in, STRIPE);
        memcpy(keyed, key, STRIPE);
        for (int i = 0; i < 8; i++)
            keyed[i] ^= data[i];
        for (int i = 0; i < 8; i++)
            acc[i] += data[i ^ 1] + (keyed[i] & 0xffffffffu) * (keyed[i] >> 32);
    }
}

static uint64_t long_merge(const uint64_t acc[8], uint64_t n)
{
    uint64_t h = n * P64_1;
    for (int i = 0; i < 4; i++)
        h += fold(acc[2 * i] ^ read64(secret + 11 + 16 * i),
                  acc[2 * i + 1] ^ read64(secret + 11 + 16 * i + 8));
    return avalanche(h);
}

#define LONG_START {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1}

static uint64_t long_plain(const uint8_t *in, uint64_t n)
{
    uint64_t acc[8] = LONG_START;
    uint64_t blocks = (n - 1) / (STRIPE * STRIPES);
    for (uint64_t b = 0; b < blocks; b++, in += STRIPE * STRIPES) {
        stripes(acc, in, secret, STRIPES);
        for (int i = 0; i < 8; i++) {
            acc[i] ^= acc[i] >> 47;
            acc[i] ^= read64(secret + SECRET_BYTES - STRIPE + 8 * i);
            acc[i] *= P32_1;
        }
    }
    uint64_t rest = n - blocks * STRIPE * STRIPES; /* at least one byte and at most a block */
    stripes(acc, in, secret, (rest - 1) / STRIPE);
    stripes(acc, in + rest - STRIPE, secret + SECRET_BYTES - STRIPE - 7, 1);
    return long_merge(acc, n);
}

static uint32_t crc_table[8][256];

static void crc_table_fill(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = (c >> 1) ^ (0x82f63b78u & (0u - (c & 1)));
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = (crc_table[t - 1][i] >> 8) ^ crc_table[0][crc_table[t - 1][i] & 0xff];
}

static uint32_t crc_plain(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v = read64(p) ^ crc;
        crc = 0;
        for (int t = 0; t < 8; t++)
            crc ^= crc_table[7 - t][(v >> (8 * t)) & 0xff];
    }
    for (; n; p++, n--)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *p) & 0xff];
    return crc;
}

#if defined(__x86_64__) && !defined(RW_PORTABLE)
#include <immintrin.h>

/* The same stripes on two 256-bit accumulators. */
#define AVX2 __attribute__((target("avx2")))
AVX2 static inline __m256i load256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
AVX2 static inline __m256i step256(__m256i acc, __m256i data, __m256i key)
{
    __m256i keyed = _mm256_xor_si256(data, key);
    __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
    return _mm256_add_epi64(_mm256_add_epi64(acc, product),
                            _mm256_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2)));
}
AVX2 static inline __m256i scramble256(__m256i acc, __m256i key)
{
    const __m256i prime = _mm256_set1_epi32((int)P32_1);
    __m256i v = _mm256_xor_si256(_mm256_xor_si256(acc, _mm256_srli_epi64(acc, 47)), key);
    __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), prime);
    return _mm256_add_epi64(_mm256_mul_epu32(v, prime), _mm256_slli_epi64(high, 32));
}
AVX2 static inline void stripes256(__m256i acc[2], const uint8_t *in, const uint8_t *key,
                                   uint64_t count)
{
    __m256i a = acc[0], b = acc[1];
    for (uint64_t s = 0; s < count; s++, in += STRIPE, key += 8) {
        a = step256(a, load256(in), load256(key));
        b = step256(b, load256(in + 32), load256(key + 32));
    }
    acc[0] = a;
    acc[1] = b;
}
AVX2 static uint64_t long_avx2(const uint8_t *in, uint64_t n)
{
    uint64_t out[8] = LONG_START;
    __m256i acc[2] = {load256(out), load256(out + 4)};
    uint64_t blocks = (n - 1) / (STRIPE * STRIPES);
    for (uint64_t k = 0; k < blocks; k++, in += STRIPE * STRIPES) {
        stripes256(acc, in, secret, STRIPES);
        acc[0] = scramble256(acc[0], load256(secret + SECRET_BYTES - STRIPE));
        acc[1] = scramble256(acc[1], load256(secret + SECRET_BYTES - STRIPE + 32));
    }
    uint64_t rest = n - blocks * STRIPE * STRIPES;
    stripes256(acc, in, secret, (rest - 1) / STRIPE);
    stripes256(acc, in + rest - STRIPE, secret + SECRET_BYTES - STRIPE - 7, 1);
    _mm256_storeu_si256((__m256i *)out, acc[0]);
    _mm256_storeu_si256((__m256i *)(out + 4), acc[1]);
    return long_merge(out, n);
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *p,
                                                            size_t n)
{
    uint64_t c = crc;
    for (; n >= 8; p += 8, n -= 8)
        c = __builtin_ia32_crc32di(c, read64(p));
    for (; n; p++, n--)
        c = __builtin_ia32_crc32qi((uint32_t)c, *p);
    return (uint32_t)c;
}
#endif

static uint64_t (*long_best)(const uint8_t *, uint64_t) = long_plain;
static uint32_t (*crc_best)(uint32_t, const uint8_t *, size_t) = crc_plain;

__attribute__((constructor)) static void choose(void)
{
    crc_table_fill();
#if defined(__x86_64__) && !defined(RW_PORTABLE)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        long_best = long_avx2;
    if (__builtin_cpu_supports("sse4.2"))
        crc_best = crc_sse42;
#endif
}

uint64_t rw_xxh3(const uint8_t *data, uint64_t bytes)
{
    if (bytes > 240)
        return long_best(data, bytes);
    if (bytes > 128)
        return up_to_240(data, bytes);
    return bytes > 16 ? up_to_128(data, bytes) : up_to_16(data, bytes);
}

uint32_t rw_crc32c(uint32_t seed, const void *data, size_t bytes)
{
    return ~crc_best(~seed, data, bytes);
}
