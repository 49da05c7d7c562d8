#define _GNU_SOURCE
#include "held.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int32_t add(rw_descriptors *d, int fd)
{
    if (d->count >= RW_DESCRIPTORS_MAX) {
        close(fd);
        return -EMFILE;
    }
    d->fd[d->count] = fd;
    return d->count++;
}

int32_t rw_descriptor_open(rw_descriptors *d, int32_t at, const char *path, int32_t flags)
{
    int fd = openat(at < 0 ? AT_FDCWD : at, path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : add(d, fd);
}

int64_t rw_receive(int socket, uint8_t *data, uint64_t size, rw_descriptors *into, int32_t *flags)
{
    union {
        struct cmsghdr aligned;
        char space[CMSG_SPACE(RW_DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr m = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    ssize_t got = recvmsg(socket, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; at + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
            (void)add(into, fd);
        }
    }
    *flags = m.msg_flags;
    return got;
}

int32_t rw_descriptor_take(rw_descriptors *d, int32_t place)
{
    if (place < 0 || place >= d->count)
        return -1;
    int32_t fd = d->fd[place];
    d->fd[place] = -1;
    return fd;
}

void rw_descriptor_close(rw_descriptors *d, int32_t place)
{
    int32_t fd = rw_descriptor_take(d, place);
    if (fd >= 0)
        close(fd);
}

void rw_descriptor_move(rw_descriptors *d, int32_t place, rw_descriptors *to)
{
    int32_t fd = rw_descriptor_take(d, place);
    if (fd >= 0)
        (void)add(to, fd);
}

void rw_descriptors_close(rw_descriptors *d)
{
    for (int32_t place = 0; place < d->count; place++)
        rw_descriptor_close(d, place);
    d->count = 0;
}
