/* Preloaded into an engine under test: notes every name that it makes below a directory, and every directory that it syncs,
 * in the order in which the calls returned, and dies when it has noted as many as it is told. Some file systems sync a name
 * along with its file; what relies on that shows only where names that nobody synced are taken away. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *root, *journal;
static int lines_left = -1;

__attribute__((constructor)) static void attach(void)
{
    root = getenv("RINGWAL_NAMES_ROOT");
    journal = getenv("RINGWAL_NAMES");
    const char *lines = getenv("RINGWAL_NAMES_LINES");
    if (lines != NULL)
        lines_left = atoi(lines);
}

static int ours(const char *path) { return root != NULL && strncmp(path, root, strlen(root)) == 0; }

/* Opened each time: the engine's children close what they do not know. One write each, so that the lines of several
 * processes do not mix. The caller's errno stays. */
static void note(char kind, const char *path)
{
    char line[PATH_MAX + 3];
    int error = errno;
    int n = snprintf(line, sizeof line, "%c %s\n", kind, path);
    int fd = REAL(open)(journal, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        abort();
    close(fd);
    if (--lines_left == 0)
        raise(SIGKILL);
    errno = error;
}

static int opened(int fd, const char *path, int known)
{
    if (fd >= 0 && !known)
        note('+', path);
    return fd;
}

#define DEFINE_OPEN(name)                                                         \
    int name(const char *path, int flags, ...)                                    \
    {                                                                             \
        va_list more;                                                             \
        va_start(more, flags);                                                    \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;   \
        va_end(more);                                                             \
        int known = !(flags & O_CREAT) || !ours(path) || access(path, F_OK) == 0; \
        return opened(REAL(name)(path, flags, mode), path, known);                \
    }

DEFINE_OPEN(open)
DEFINE_OPEN(open64)

int mkdir(const char *path, mode_t mode)
{
    int rc = REAL(mkdir)(path, mode);
    if (rc == 0 && ours(path))
        note('+', path);
    return rc;
}

int unlink(const char *path)
{
    int rc = REAL(unlink)(path);
    if (rc == 0 && ours(path))
        note('-', path);
    return rc;
}

int rename(const char *from, const char *to)
{
    int rc = REAL(rename)(from, to);
    if (rc == 0 && ours(to)) {
        note('-', from);
        note('+', to);
    }
    return rc;
}

int fsync(int fd)
{
    char link[64], path[PATH_MAX];
    struct stat st;
    int rc = REAL(fsync)(fd);
    if (rc != 0 || journal == NULL || fstat(fd, &st) != 0 || !S_ISDIR(st.st_mode))
        return rc;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n > 0) {
        path[n] = 0;
        note('s', path);
    }
    return rc;
}
