/* Preloaded into an engine under test: fails or shortens its writes and syncs at the call that the
 * test names, and counts what is still written to a file after one of its calls failed. The test
 * holds the other end of `shim`, a shared file. */
#define _GNU_SOURCE
#include "atomics.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE_BLOCK = 1, WRITE = 2, DATASYNC = 4, SYNC = 8, ALLOCATE = 16, READ = 32 };
enum { ONCE = 0, EVER = 1, SHORT = 2, UNWRITTEN = 3 };
enum { SWALLOW = -2, HALF = -1, DESCRIPTORS = 256 };

/* Written by the test: the first eight words. By the engine's processes: the rest. */
struct shim {
    uint32_t armed, kinds, at, mode, error, segments_only, pad_[2];
    uint32_t calls, failures, later, inode_low, syncs, told[DESCRIPTORS];
};

static struct shim *shim;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("RINGWAL_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        shim = at;
}

/* What the call is to pretend: 0 nothing, an errno, HALF to do half of it, SWALLOW to do nothing
 * and say that it was done. */
static int interfere(uint32_t kind, int fd)
{
    struct stat st;
    if (shim == NULL || !rw_load32(&shim->armed) || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    uint32_t inode = (uint32_t)st.st_ino;
    if (rw_load32(&shim->failures) != 0 && rw_load32(&shim->inode_low) == inode && kind != READ)
        rw_add32(&shim->later, 1);
    if (!(shim->kinds & kind) || (shim->segments_only && st.st_size < 1 << 20))
        return 0;
    uint32_t n = rw_add32(&shim->calls, 1) + 1;
    if (shim->mode == ONCE ? n != shim->at : n < shim->at)
        return 0;
    if (shim->mode == SHORT)
        return HALF;
    rw_store32(&shim->inode_low, inode);
    rw_add32(&shim->failures, 1);
    return shim->mode == UNWRITTEN ? SWALLOW : (int)shim->error;
}

/* What was swallowed could not be written back. The kernel tells each open file once, whoever asks;
 * here each descriptor, as the engine opens anew for every one. The first to be told comes back
 * late, so that others sync meanwhile. */
static int tell(int fd)
{
    struct stat st;
    uint32_t untold = 0;
    if (shim == NULL || shim->mode != UNWRITTEN || rw_load32(&shim->failures) == 0 ||
        fd >= DESCRIPTORS || fstat(fd, &st) != 0 ||
        rw_load32(&shim->inode_low) != (uint32_t)st.st_ino)
        return 0;
    bool first = rw_add32(&shim->syncs, 1) == 0;
    if (!rw_cas32(&shim->told[fd], &untold, 1))
        return 0;
    for (int i = 0; first && i < 1000 && rw_load32(&shim->syncs) < 3; i++)
        usleep(1000);
    return (int)shim->error;
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static ssize_t really_write(int fd, const struct iovec *v, int count, off_t at, int flags)
{
    return flags ? REAL(pwritev2)(fd, v, count, at, flags) : REAL(pwritev)(fd, v, count, at);
}

ssize_t pwritev2(int fd, const struct iovec *v, int count, off_t at, int flags)
{
    int what = interfere(WRITE_BLOCK, fd);
    if (what > 0)
        return refuse(what);
    if (what == SWALLOW)
        return (ssize_t)v->iov_len;
    struct iovec half = {.iov_base = v->iov_base, .iov_len = v->iov_len / 2 / 4096 * 4096};
    if (what < 0 && half.iov_len > 0)
        return really_write(fd, &half, 1, at, flags);
    return really_write(fd, v, count, at, flags);
}

ssize_t pwritev(int fd, const struct iovec *v, int count, off_t at)
{
    return pwritev2(fd, v, count, at, 0);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    int what = interfere(WRITE, fd);
    if (what > 0)
        return refuse(what);
    if (what < 0 && bytes > 4096)
        bytes = bytes / 2 / 4096 * 4096;
    return REAL(pwrite)(fd, data, bytes, at);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at)
{
    return pwrite(fd, data, bytes, at);
}

ssize_t preadv64v2(int fd, const struct iovec *v, int count, off64_t at, int flags)
{
    int what = interfere(READ, fd);
    if (what > 0)
        return refuse(what);
    struct iovec half = {.iov_base = v->iov_base, .iov_len = v->iov_len / 2 / 4096 * 4096};
    if (what < 0 && half.iov_len > 0)
        return REAL(preadv64v2)(fd, &half, 1, at, flags);
    return REAL(preadv64v2)(fd, v, count, at, flags);
}

int fdatasync(int fd)
{
    int what = interfere(DATASYNC, fd);
    what = what ? what : tell(fd);
    return what > 0 ? refuse(what) : REAL(fdatasync)(fd);
}

int fsync(int fd)
{
    int what = interfere(SYNC, fd);
    return what > 0 ? refuse(what) : REAL(fsync)(fd);
}

int posix_fallocate(int fd, off_t at, off_t bytes)
{
    int what = interfere(ALLOCATE, fd);
    return what > 0 ? what : REAL(posix_fallocate)(fd, at, bytes);
}

int posix_fallocate64(int fd, off64_t at, off64_t bytes) { return posix_fallocate(fd, at, bytes); }
