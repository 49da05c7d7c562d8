#define _GNU_SOURCE
#include "block_io.h"

#include "points.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

int rw_block_write(int fd, bool direct, const uint8_t *block, uint64_t length, uint64_t file_offset)
{
    int pretended = RW_POINT("l.write.submitted");
    if (pretended != 0)
        return pretended;
    while (length > 0) {
        struct iovec v = {.iov_base = (void *)block, .iov_len = length};
        /* Without the flag, the plain call: where a sandbox refuses the other, direct I/O was given
         * up for that. */
        ssize_t n = direct ? pwritev2(fd, &v, 1, (off_t)file_offset, RWF_DSYNC)
                           : pwritev(fd, &v, 1, (off_t)file_offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? EIO : errno;
        block += n;
        file_offset += (uint64_t)n;
        length -= (uint64_t)n;
        (void)RW_POINT("l.write.partial");
    }
    pretended = RW_POINT("l.write.done");
    if (pretended != 0)
        return pretended;
    if (!direct && fdatasync(fd) != 0)
        return errno;
    return 0;
}
