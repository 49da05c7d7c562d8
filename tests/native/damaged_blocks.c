/* Blocks damaged at random, over and over: whatever the bytes are, checking and decoding read
 * inside the block only. The block lies at the very end of its allocation, so that AddressSanitizer
 * sees the first byte too far.
 */
#include "block.h"
#include "digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 8192, ROUNDS = 60000, RECORDS = 12 };

static const uint8_t uuid[16] = "damaged";
static const uint64_t epoch = 3, position = 1 << 20;

static uint64_t state = 88172645463325252ull;

static uint32_t dice(uint32_t sides)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % sides;
}

static void build(uint8_t *block)
{
    memset(block, 0, LENGTH);
    uint64_t at = sizeof(rw_block);
    for (uint32_t i = 0; i < RECORDS; i++) {
        uint8_t payload[400];
        uint32_t bytes = dice(sizeof payload);
        for (uint32_t k = 0; k < bytes; k++)
            payload[k] = (uint8_t)dice(256);
        rw_frame r = {.kind = RW_FRAME_BATCH,
                       .payload_bytes = bytes,
                       .count = 1,
                       .digest = rw_xxh3(payload, bytes)};
        at += rw_frame_put(block + at, &r, payload, rw_frame_seed(epoch, position));
    }
    rw_block h = {.magic = RW_BLOCK_MAGIC,
                  .format_version = RW_FORMAT_VERSION,
                  .epoch = epoch,
                  .position = position,
                  .length = LENGTH,
                  .used = (uint32_t)at,
                  .frames = RECORDS,
                  .kind = RW_BLOCK_DATA,
                  .span = LENGTH};
    memcpy(h.uuid, uuid, sizeof uuid);
    rw_block_stamp(&h);
    memcpy(block, &h, sizeof h);
}

/* A record header changed and its CRC made right again: damage that only the checks behind the CRC
 * can find. */
static void forge(uint8_t *block)
{
    rw_frame r;
    uint8_t *at = block + sizeof(rw_block);
    memcpy(&r, at, sizeof r);
    r.payload_bytes = dice(2) ? dice(LENGTH) : UINT32_MAX - dice(64);
    r.count = dice(2) ? dice(200) : UINT32_MAX - dice(8);
    r.crc = rw_frame_crc(&r, rw_frame_seed(epoch, position));
    memcpy(at, &r, sizeof r);
}

static int damage(uint8_t *block)
{
    uint32_t kind = dice(8);
    if (kind == 0)
        return 0;
    if (kind < 4)
        block[dice(LENGTH)] ^= (uint8_t)(1u << dice(8));
    else if (kind < 6)
        memset(block + 512 * dice(LENGTH / 512), 0, 512);
    else
        forge(block);
    return 1;
}

int main(void)
{
    uint8_t *block = malloc(LENGTH), *whole = malloc(LENGTH);
    if (block == NULL || whole == NULL)
        return 1;
    uint32_t refused = 0, accepted = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (round % 64 == 0)
            build(whole);
        memcpy(block, whole, LENGTH);
        int damaged = damage(block);
        if (rw_block_check(block, LENGTH, uuid, epoch, position) != RW_OK ||
            rw_block_verify(block) != RW_OK) {
            if (!damaged)
                return 2;
            refused++;
            continue;
        }
        uint64_t at = sizeof(rw_block);
        rw_frame_info frames[RECORDS + 1];
        if (rw_block_frames(block, &at, frames, RECORDS + 1) != RECORDS)
            return 3;
        accepted++;
    }
    free(block);
    free(whole);
    printf("%u blocks refused, %u accepted\n", refused, accepted);
    return refused > ROUNDS / 4 && accepted > ROUNDS / 16 ? 0 : 4;
}
