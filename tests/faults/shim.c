/*
 * Preloaded into the server by tests/store_faults.rs (LD_PRELOAD): makes the disk below one
 * directory fail on demand.
 *
 *   DISK_FAULT_DIR    the directory, as an absolute path without symbolic links
 *   DISK_FAULT_FILE   read before each call; what it contains says what fails:
 *                         "sync"  fsync and fdatasync, with EIO
 *                         "hang"  fsync and fdatasync do not return until it says something else
 *                         "full"  writes, and what makes files longer, with ENOSPC
 *                         neither, or no such file: nothing
 *
 * Only calls through the C library are seen; files outside the directory are never touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether `fault` is switched on for the file behind `fd`. Keeps errno. */
static int faulty(int fd, const char *fault)
{
    const char *dir = getenv("DISK_FAULT_DIR");
    const char *file = getenv("DISK_FAULT_FILE");
    char link[64], path[4096], mode[64];
    int saved = errno, on = 0;

    if (dir == NULL || file == NULL)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t prefix = strlen(dir);
    if (length > 0 && (size_t)length >= prefix) {
        path[length] = '\0';
        if (strncmp(path, dir, prefix) == 0 && (path[prefix] == '/' || path[prefix] == '\0')) {
            int from = open(file, O_RDONLY | O_CLOEXEC);
            if (from >= 0) {
                ssize_t got = read(from, mode, sizeof mode - 1);
                mode[got > 0 ? got : 0] = '\0';
                on = strstr(mode, fault) != NULL;
                close(from);
            }
        }
    }
    errno = saved;
    return on;
}

#define FAIL_IF(fd, fault, error) \
    do { \
        if (faulty(fd, fault)) { \
            errno = error; \
            return -1; \
        } \
    } while (0)

/* Returns once no sync hangs. */
static void wait_while_hanging(int fd)
{
    while (faulty(fd, "hang"))
        usleep(10000);
}

int fsync(int fd)
{
    wait_while_hanging(fd);
    FAIL_IF(fd, "sync", EIO);
    return NEXT(fsync)(fd);
}

int fdatasync(int fd)
{
    wait_while_hanging(fd);
    FAIL_IF(fd, "sync", EIO);
    return NEXT(fdatasync)(fd);
}

ssize_t write(int fd, const void *data, size_t size)
{
    FAIL_IF(fd, "full", ENOSPC);
    return NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    FAIL_IF(fd, "full", ENOSPC);
    return NEXT(writev)(fd, parts, count);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    FAIL_IF(fd, "full", ENOSPC);
    return NEXT(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    FAIL_IF(fd, "full", ENOSPC);
    return NEXT(pwrite64)(fd, data, size, at);
}

/* Whether `length` would make the file longer: only that can fail on a full disk. */
static int grows(int fd, off64_t length)
{
    struct stat64 now;
    return fstat64(fd, &now) != 0 || length > now.st_size;
}

int ftruncate(int fd, off_t length)
{
    if (grows(fd, length))
        FAIL_IF(fd, "full", ENOSPC);
    return NEXT(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length)
{
    if (grows(fd, length))
        FAIL_IF(fd, "full", ENOSPC);
    return NEXT(ftruncate64)(fd, length);
}

int fallocate(int fd, int mode, off_t at, off_t length)
{
    FAIL_IF(fd, "full", ENOSPC);
    return NEXT(fallocate)(fd, mode, at, length);
}

int fallocate64(int fd, int mode, off64_t at, off64_t length)
{
    FAIL_IF(fd, "full", ENOSPC);
    return NEXT(fallocate64)(fd, mode, at, length);
}

/* These return the error instead of setting errno. */
int posix_fallocate(int fd, off_t at, off_t length)
{
    if (faulty(fd, "full"))
        return ENOSPC;
    return NEXT(posix_fallocate)(fd, at, length);
}

int posix_fallocate64(int fd, off64_t at, off64_t length)
{
    if (faulty(fd, "full"))
        return ENOSPC;
    return NEXT(posix_fallocate64)(fd, at, length);
}
