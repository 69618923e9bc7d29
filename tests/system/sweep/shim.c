/* Faults at the file calls of processes: cc -shared -fPIC -O2 -o shim.so shim.c -ldl, LD_PRELOAD.

   A process that has a file's name in FEDLEARN_SWEEP counts its calls below one folder, together
   with every other process that has the same file: it holds the count. At the call that the file
   names, and for FOREVER at each one after it, the call goes wrong. Of a line in the log for each
   call that is counted, the first word is the call and the second its path.

   An open that only reads is a "look", as are stat, access and opendir: they change nothing. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault { NONE, ONCE, FOREVER, BEFORE, AFTER, SHORT };
enum verdict { GO_ON, FAIL, DIE_AFTER, SHORTEN };

/* shim.py writes it; the same bytes there. */
struct plan {
    long at;     /* the call at which it strikes, from 1; 0: never */
    long fault;  /* enum fault */
    long count;  /* calls so far, of all processes */
    long struck; /* how often a call went wrong */
    char folder[1024];
    char log[1024];
};

static struct plan *plan;
static pid_t owner; /* the process that `plan` was opened for: a child may have another one */

static void open_plan(void)
{
    pid_t self = getpid();
    if (owner == self)
        return;
    owner = self;
    plan = NULL;
    const char *name = getenv("FEDLEARN_SWEEP");
    if (!name || !*name)
        return;
    /* System calls, because our own `open` would come back here. */
    int file = syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC, 0);
    if (file < 0)
        return;
    void *map = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (map != MAP_FAILED)
        plan = map;
}

static void note(const char *call, const char *path)
{
    char line[2200];
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    int file = syscall(SYS_openat, AT_FDCWD, plan->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    if (syscall(SYS_write, file, line, length) < 0)
        abort();
    syscall(SYS_close, file);
}

__attribute__((noreturn)) static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Count a call, and say what becomes of it. writes: it needs room on the disk. */
static enum verdict counted(const char *call, const char *path, int writes)
{
    int before = errno;
    open_plan();
    errno = before;
    if (!plan || strncmp(path, plan->folder, strlen(plan->folder)))
        return GO_ON;
    /* Only what moves bytes can be shortened, so only that is counted then. */
    if (plan->fault == SHORT && strcmp(call, "read") && strcmp(call, "write"))
        return GO_ON;
    long number = __sync_add_and_fetch(&plan->count, 1);
    if (!plan->at) {
        note(call, path);
        errno = before;
        return GO_ON;
    }
    if (number != plan->at && !(plan->fault == FOREVER && number > plan->at)) {
        errno = before;
        return GO_ON;
    }
    if (number == plan->at)
        note(call, path);
    __sync_add_and_fetch(&plan->struck, 1);
    switch (plan->fault) {
    case BEFORE:
        die();
    case AFTER:
        return DIE_AFTER;
    case SHORT:
        errno = before;
        return SHORTEN;
    default:
        /* A full disk can still be read; a disk that lies once fails at anything. */
        errno = plan->fault == FOREVER && writes ? ENOSPC : EIO;
        return FAIL;
    }
}

/* The path of a name beside an open folder, as `unlinkat` has them. */
static const char *beside(int folder, const char *name, char *out, size_t room)
{
    if (*name == '/' || folder == AT_FDCWD)
        return name;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, out, room - 1);
    if (length < 0)
        return name;
    snprintf(out + length, room - length, "/%s", name);
    return out;
}

/* The path of an open file or folder; NULL for pipes, sockets and terminals. */
static const char *path_of(int file, char *out, size_t room)
{
    int before = errno;
    struct stat found;
    char link[64];
    const char *path = NULL;
    open_plan();
    if (plan && !syscall(SYS_fstat, file, &found) && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, out, room - 1);
        if (length >= 0) {
            out[length] = 0;
            path = out;
        }
    }
    errno = before;
    return path;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* failed: what the call returns then. */
#define BY_PATH(type, name, call, path, writes, failed, ...) \
    REAL(name); \
    enum verdict verdict = counted(call, path, writes); \
    if (verdict == FAIL) \
        return failed; \
    type result = real(__VA_ARGS__); \
    if (verdict == DIE_AFTER) \
        die(); \
    return result

#define BY_FILE(type, name, call, file, writes, shorten, ...) \
    REAL(name); \
    char room[1100]; \
    const char *path = path_of(file, room, sizeof room); \
    enum verdict verdict = path ? counted(call, path, writes) : GO_ON; \
    if (verdict == FAIL) \
        return -1; \
    if (verdict == SHORTEN) { \
        shorten; \
    } \
    type result = real(__VA_ARGS__); \
    if (verdict == DIE_AFTER) \
        die(); \
    return result

/* Half of the bytes, and at least one. */
#define HALF size = size > 1 ? size / 2 : size

ssize_t read(int file, void *data, size_t size) { BY_FILE(ssize_t, read, "read", file, 0, HALF, file, data, size); }
ssize_t write(int file, const void *data, size_t size) { BY_FILE(ssize_t, write, "write", file, 1, HALF, file, data, size); }
ssize_t pread(int file, void *data, size_t size, off_t at) { BY_FILE(ssize_t, pread, "read", file, 0, HALF, file, data, size, at); }
ssize_t pread64(int file, void *data, size_t size, off64_t at) { BY_FILE(ssize_t, pread64, "read", file, 0, HALF, file, data, size, at); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { BY_FILE(ssize_t, pwrite, "write", file, 1, HALF, file, data, size, at); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) { BY_FILE(ssize_t, pwrite64, "write", file, 1, HALF, file, data, size, at); }

/* Of several parts: half of the first, and nothing of the others. */
#define BY_PARTS(name, call, file, writes, whole, first) \
    REAL(name); \
    char room[1100]; \
    const char *path = path_of(file, room, sizeof room); \
    enum verdict verdict = path ? counted(call, path, writes) : GO_ON; \
    if (verdict == FAIL) \
        return -1; \
    struct iovec half = parts[0]; \
    half.iov_len = half.iov_len > 1 ? half.iov_len / 2 : half.iov_len; \
    ssize_t result = verdict == SHORTEN ? first : whole; \
    if (verdict == DIE_AFTER) \
        die(); \
    return result

ssize_t readv(int file, const struct iovec *parts, int count) { BY_PARTS(readv, "read", file, 0, real(file, parts, count), real(file, &half, 1)); }
ssize_t writev(int file, const struct iovec *parts, int count) { BY_PARTS(writev, "write", file, 1, real(file, parts, count), real(file, &half, 1)); }
ssize_t preadv64v2(int file, const struct iovec *parts, int count, off64_t at, int flags) { BY_PARTS(preadv64v2, "read", file, 0, real(file, parts, count, at, flags), real(file, &half, 1, at, flags)); }

int fsync(int file) { BY_FILE(int, fsync, "sync", file, 1, , file); }
int fdatasync(int file) { BY_FILE(int, fdatasync, "sync", file, 1, , file); }
int ftruncate(int file, off_t size) { BY_FILE(int, ftruncate, "truncate", file, 1, , file, size); }
int ftruncate64(int file, off64_t size) { BY_FILE(int, ftruncate64, "truncate", file, 1, , file, size); }
int fchmod(int file, mode_t mode) { BY_FILE(int, fchmod, "chmod", file, 1, , file, mode); }
int flock(int file, int how) { BY_FILE(int, flock, "lock", file, 0, , file, how); }

int rename(const char *from, const char *to) { BY_PATH(int, rename, "rename", to, 1, -1, from, to); }
int unlink(const char *name) { BY_PATH(int, unlink, "unlink", name, 0, -1, name); }
int rmdir(const char *name) { BY_PATH(int, rmdir, "rmdir", name, 0, -1, name); }
int mkdir(const char *name, mode_t mode) { BY_PATH(int, mkdir, "mkdir", name, 1, -1, name, mode); }
int chmod(const char *name, mode_t mode) { BY_PATH(int, chmod, "chmod", name, 1, -1, name, mode); }
int access(const char *name, int how) { BY_PATH(int, access, "look", name, 0, -1, name, how); }
int stat64(const char *name, struct stat64 *out) { BY_PATH(int, stat64, "look", name, 0, -1, name, out); }
int lstat64(const char *name, struct stat64 *out) { BY_PATH(int, lstat64, "look", name, 0, -1, name, out); }
int stat(const char *name, struct stat *out) { BY_PATH(int, stat, "look", name, 0, -1, name, out); }
int lstat(const char *name, struct stat *out) { BY_PATH(int, lstat, "look", name, 0, -1, name, out); }
DIR *opendir(const char *name) { BY_PATH(DIR *, opendir, "look", name, 0, NULL, name); }

int renameat(int a, const char *from, int b, const char *to)
{
    char room[2100];
    BY_PATH(int, renameat, "rename", beside(b, to, room, sizeof room), 1, -1, a, from, b, to);
}
int unlinkat(int folder, const char *name, int flags)
{
    char room[2100];
    BY_PATH(int, unlinkat, "unlink", beside(folder, name, room, sizeof room), 0, -1, folder, name, flags);
}
int fstatat64(int folder, const char *name, struct stat64 *out, int flags)
{
    char room[2100];
    BY_PATH(int, fstatat64, "look", beside(folder, name, room, sizeof room), 0, -1, folder, name, out, flags);
}

#define MODE \
    int mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, int); \
        va_end(rest); \
    } \
    int writes = (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0

int open(const char *name, int flags, ...) { MODE; BY_PATH(int, open, writes ? "open" : "look", name, writes, -1, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE; BY_PATH(int, open64, writes ? "open" : "look", name, writes, -1, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...)
{
    MODE;
    char room[2100];
    BY_PATH(int, openat, writes ? "open" : "look", beside(folder, name, room, sizeof room), writes, -1, folder, name, flags, mode);
}
int openat64(int folder, const char *name, int flags, ...)
{
    MODE;
    char room[2100];
    BY_PATH(int, openat64, writes ? "open" : "look", beside(folder, name, room, sizeof room), writes, -1, folder, name, flags, mode);
}
FILE *fopen64(const char *name, const char *how)
{
    int writes = *how != 'r';
    BY_PATH(FILE *, fopen64, writes ? "open" : "look", name, writes, NULL, name, how);
}
