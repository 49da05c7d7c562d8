/* One block, one durable write.
 *
 * Direct: pwritev2 with RWF_DSYNC on an O_DIRECT descriptor; its return is the proof, and its error
 * belongs to this block alone. Buffered (where the file system refuses direct I/O): pwrite, then
 * fdatasync issued after it by the same thread, so that no sync is ever credited to a write that
 * was still on its way.
 * Several threads call this at once for different blocks; completions come in any order.
 * A failed write or sync is never repeated: after a failed sync the page cache may claim bytes that
 * the disk never got.
 */
#ifndef RW_BLOCK_IO_H
#define RW_BLOCK_IO_H

#include <stdbool.h>
#include <stdint.h>

/* 0, or the errno of the failure. */
int rw_block_write(int fd, bool direct, const uint8_t *block, uint64_t length,
                   uint64_t file_offset);

#endif
